"""The presets of re-rankers, by name and by the hub ids of their models."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...errors import ConfigError, did_you_mean
from ...inputs.prompt_files import is_file_name
from ...saving.reranker_settings import READING, RerankSettings
from ..catalog import hub_id
from ..preset import Preset, RerankerFile, about, parsed

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class RerankPreset:
    """A published re-ranker, or several of one form.

    Args:
        about: its models, their families, licences and sources, as of an embedder's preset.
        settings: the prompt, and how pictures and tokens are read.
    """

    about: Preset
    settings: RerankSettings


def read_reranker_preset(path: Path) -> RerankPreset:
    """Return the preset in a YAML or JSON file. Raises ConfigError, which names the file and key, for a bad one."""
    file = parsed(path, RerankerFile)
    other = next((key for key in file.settings if key not in READING), None)
    if other is not None:
        raise ConfigError(f"preset {path}: settings.{other} is no key of it" + did_you_mean(other, READING))
    try:
        settings = RerankSettings.from_dict({"prompt": file.prompt, **file.settings})
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"preset {path}: {error}") from error
    return RerankPreset(about(path, file, settings.reading), settings)


@cache
def reranker_names() -> tuple[str, ...]:
    """Return the names of all presets, in order."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


@cache
def _shipped(name: str) -> RerankPreset:
    return read_reranker_preset(FOLDER / f"{name}.yaml")


def reranker_preset(value: RerankPreset | str | os.PathLike[str]) -> RerankPreset:
    """Return a preset as it is, by its name, or from a YAML or JSON file.

    Raises ConfigError for a name that none has, and for a file that cannot be read or holds anything else.
    """
    if isinstance(value, RerankPreset):
        return value
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"a re-ranker's preset is the name of one, or a YAML or JSON file, not {value!r:.60}")
    if is_file_name(value):
        return read_reranker_preset(Path(value))
    if value not in reranker_names():
        raise ConfigError(
            f"preset: '{value}' is no re-ranker's, which are {', '.join(reranker_names())}, or a YAML or JSON file"
            + did_you_mean(str(value), reranker_names())
        )
    return _shipped(str(value))


def reranker_preset_of(model: str | os.PathLike[str]) -> RerankPreset | None:
    """Return the preset of a published re-ranker, by its hub id, which the path of a folder may end with, as in the
    hub's own cache; None where none has it."""
    return _of_ids().get(hub_id(model).lower())


@cache
def _of_ids() -> dict[str, RerankPreset]:
    return {model.id.lower(): _shipped(name) for name in reranker_names() for model in _shipped(name).about.models}
