"""The presets that come with the library, by name and by the hub ids of their models."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from ..errors import ConfigError, did_you_mean
from ..inputs.prompt_files import is_file_name
from .preset import Preset, PublishedModel, read_preset

FOLDER = Path(__file__).parent
_NO_PRESETS = ("unsupported.yaml",)
_CACHED = re.compile(r"(?:^|/)models--([\w.-]+?)--([\w.-]+)/snapshots/[^/]+/?$")  # of the hub's cache


@cache
def names() -> tuple[str, ...]:
    """Return the names of all presets, in order."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml") if path.name not in _NO_PRESETS))


@cache
def _shipped(name: str) -> Preset:
    return read_preset(FOLDER / f"{name}.yaml")


def preset(value: Preset | str | os.PathLike[str]) -> Preset:
    """Return a preset as it is, by its name, or from a YAML or JSON file.

    Raises ConfigError for a name that none has, and for a file that cannot be read or holds anything else.
    """
    if isinstance(value, Preset):
        return value
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"preset is the name of one, or a YAML or JSON file, not {value!r:.60}")
    if is_file_name(value):
        return read_preset(Path(value))
    if value not in names():
        raise ConfigError(
            f"preset: '{value}' is not one of {', '.join(names())}, or a YAML or JSON file"
            + did_you_mean(str(value), names())
        )
    return _shipped(str(value))


def preset_of(model: str | os.PathLike[str]) -> Preset | None:
    """Return the preset of a published model, by its hub id, which the path of a folder may end with, as in the hub's
    own cache; None where none has it."""
    return _of_ids().get(hub_id(model).lower())


def hub_id(model: str | os.PathLike[str]) -> str:
    """Return the OWNER/NAME that a hub id is, or that the path of a folder ends with, as in the hub's own cache."""
    name = os.fspath(model).replace(os.sep, "/").rstrip("/")
    cached = _CACHED.search(name)
    return "/".join(cached.groups() if cached else name.split("/")[-2:])


def namesake(folder: str | os.PathLike[str]) -> tuple[Preset, PublishedModel] | None:
    """Return a preset and its model with the name, owner apart, that a folder has; None where none has it."""
    last = Path(os.fspath(folder)).name.lower()
    found = [(preset(name), model) for name in names() for model in preset(name).models]
    return next(((one, model) for one, model in found if model.id.rpartition("/")[2].lower() == last), None)


@cache
def _of_ids() -> dict[str, Preset]:
    return {model.id.lower(): preset(name) for name in names() for model in preset(name).models}
