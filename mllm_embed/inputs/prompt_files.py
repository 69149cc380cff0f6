"""Prompt sets from files: a person's own, as YAML or JSON, or one that comes with the library, by its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, did_you_mean
from ..yaml_text import read_yaml
from .prompts import PROMPT_SETS, PromptSet

SUFFIXES = (".yaml", ".yml", ".json")


def is_file_name(value: str | os.PathLike[str]) -> bool:
    """Return whether a value names a file of settings rather than something by its name."""
    return isinstance(value, os.PathLike) or value.endswith(SUFFIXES) or os.sep in value


def prompt_set(value: PromptSet | Mapping[str, Any] | str | os.PathLike[str]) -> PromptSet:
    """Return a prompt set as it is, of the keys that a file of one has, by its name, or from a YAML or JSON file.

    Raises ConfigError for a name that no set has, for a file that cannot be read, and for keys that are no prompt set.
    """
    if isinstance(value, PromptSet):
        return value
    if isinstance(value, Mapping):
        return prompts_of_keys(value, "own", "prompts")
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"prompts is a PromptSet, the name of one, or a YAML or JSON file, not {value!r:.60}")
    if is_file_name(value):
        return _read(Path(value))
    value = os.fspath(value)
    if value not in PROMPT_SETS:
        known = f"{', '.join(PROMPT_SETS)}, or a YAML or JSON file"
        raise ConfigError(f"prompts: '{value}' is not one of {known}" + did_you_mean(value, PROMPT_SETS))
    return PROMPT_SETS[value]


def read_keys(path: Path, kind: str) -> dict[str, Any]:
    """Return the keys of a YAML or JSON file of a `kind` that messages name. Raises ConfigError where it has none."""
    values = read_yaml(path, kind)  # which JSON is
    if not isinstance(values, dict):
        raise ConfigError(f"{kind} {path} holds no keys with values")
    return values


def _read(path: Path) -> PromptSet:
    return prompts_of_keys(read_keys(path, "prompt set"), path.stem, f"prompt set {path}")


def prompts_of_keys(values: Mapping[str, Any], name: str, where: str) -> PromptSet:
    """Return the prompt set of a file's keys, called `name` where they do not say. Raises ConfigError, which begins
    with `where`, for keys that are no prompt set."""
    try:
        return PromptSet.from_dict({"name": name, **values})
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from error
