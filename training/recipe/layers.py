"""Recipes laid one over another: the files of a chain of bases, and what is left of them once they lie together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mllm_embed.errors import ConfigError, did_you_mean, kind_of
from mllm_embed.yaml_text import read_yaml

RECIPES = Path(__file__).parents[1] / "recipes"
LAYER_KEYS = {
    "base": "name or file of a recipe that this one is laid over, which may have a base itself; a file is looked for "
    "beside this one. Sections are laid over each other key by key; a list, or any other value, replaces the base's "
    "as a whole; null takes a key of the base away, be it a stage (`captions: null`) or a section; default none",
    "order": "names of the stages to train, in order, of those that recipe and base have together; others are left "
    "out; by default all: the base's, then this one's",
}
"""What a file may say beside the keys of a recipe, and what it means."""


def find_recipe(path: Path) -> Path:
    """Return the file of a recipe, by its path or the name of one that ships. Raise ConfigError where there is none."""
    if path.is_file():
        return path
    if path.exists():
        raise ConfigError(f"recipe {path} is {'a folder' if path.is_dir() else 'no file'}; give a YAML file")
    named = RECIPES / f"{path.name}.yaml"
    if path != Path(path.name) or path.suffix == ".yaml" or not named.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise ConfigError(f"recipe {path} does not exist; give a YAML file or one of: {known}")
    return named


def chain_of(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the files of a recipe and of its bases with what they hold, from the recipe down.

    Raise ConfigError for one that does not exist, cannot be read, or is its own base, directly or in a circle.
    """
    chain: list[tuple[Path, dict[str, Any]]] = []
    while True:
        raw = _read(path)
        chain.append((path, raw))
        if raw.get("base") is None:
            return chain
        path = _base_of(path, raw["base"])
        files = [file.resolve() for file, _ in chain]
        if path.resolve() in files:
            circle = [*(str(file) for file, _ in chain[files.index(path.resolve()) :]), str(path)]
            raise ConfigError(f"recipe {chain[-1][0]}: its bases go in a circle: {' -> '.join(circle)}; take one out")


def _base_of(path: Path, name: Any) -> Path:
    if not isinstance(name, str):
        raise ConfigError(f"recipe {path}: base is the name of one other recipe, not {name!r}")
    beside = path.parent / name
    try:
        return beside if beside.is_file() else find_recipe(Path(name))
    except ConfigError as error:
        raise ConfigError(f"recipe {path}: its base: {error}") from error


def laid_together(chain: list[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """Return what the files of `chain_of` say together. Raise ConfigError for an order of stages that are not there."""
    whole: dict[str, Any] = {}
    for path, raw in reversed(chain):
        whole = _over(whole, {key: value for key, value in raw.items() if key not in LAYER_KEYS})
        if raw.get("order") is not None:
            whole["stages"] = _ordered(whole.get("stages"), raw["order"], path)
    return whole


def _over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `above` laid over `below`: sections key by key, anything else as a whole; null takes what is below away,
    and stays, to be told, where nothing is."""
    laid = dict(below)
    for key, value in above.items():
        under = below.get(key)
        if value is None and key in below:
            del laid[key]
        elif isinstance(under, dict) and isinstance(value, dict):
            laid[key] = _over(under, value)
        else:
            laid[key] = value
    return laid


def _ordered(stages: Any, order: Any, path: Path) -> dict[str, Any]:
    """Return the stages that `order` names, in its order."""
    there = stages if isinstance(stages, dict) else {}
    if not (isinstance(order, list) and order and all(isinstance(name, str) for name in order)):
        raise ConfigError(f"recipe {path}: order is a list of names of stages, not {order!r:.80}")
    for name in order:
        if name not in there:
            cure = did_you_mean(name, there) or f"; there are {', '.join(map(str, there)) or 'none'}"
            raise ConfigError(f"recipe {path}: order names the stage '{name}', which is not there{cure}")
        if order.count(name) > 1:
            raise ConfigError(f"recipe {path}: order names the stage '{name}' twice; a stage is trained once")
    return {name: there[name] for name in order}


def _read(path: Path) -> dict[str, Any]:
    raw = read_yaml(path, "recipe")
    if not isinstance(raw, dict):
        what = "is empty" if raw is None else f"is {kind_of(raw)}, not keys with values"
        raise ConfigError(f"recipe {path} {what}; see {RECIPES} for examples")
    return raw
