"""The arguments by which every command names the data that it reads, and the sources that they name.

They are those of a recipe's `data`: what training reads, these commands read.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from ..data.source import DataSource
    from ..recipe.config import Recipe
    from ..recipe.reranker.recipe import RerankRecipe
    from ..recipe.row_stage import RowStage

DATA_HELP = """\
what DATA is
  A data folder needs nothing else. Any other source that a recipe's `data` takes is a file, a folder or a pattern in
  quotes, with --format and the options beside it, which hold for every DATA given:
    train.jsonl --format mbeir --pool cand_pool.jsonl --images M-BEIR
    'shards/*.parquet' --column image=picture --column caption=text
  Several sources of different kinds stand in a YAML file, as in a recipe's `data`: a list of {path, format, ...}. A
  recipe is such a file too, or the name of one that ships: its stage (--stage, where it has several) then says what is
  read.
"""
_YAML = (".yaml", ".yml")
_GIVEN = ("format", "images", "pool")  # options that are keys of a source under the same name


@dataclass(frozen=True)
class NamedData:
    """What the arguments name.

    Args:
        sources: one or more, as of a recipe's `data`.
        stage: the recipe's stage that they come from; None where they were named otherwise.
    """

    sources: tuple[DataSource, ...]
    stage: RowStage | None = None


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add DATA, and what says how it is written. The epilog of the parser should hold `DATA_HELP`."""
    parser.add_argument(
        "data", nargs="+", metavar="DATA", help="data folder, any other source, or a YAML file with sources; see below"
    )
    group = parser.add_argument_group("how DATA is written, where it is no data folder")
    group.add_argument("--format", metavar="NAME", help="a format of a recipe's `data`; columns, where --column is")
    group.add_argument("--images", metavar="DIR", help="folder that the names of pictures start from")
    group.add_argument("--pool", metavar="FILE", help="the second file that rows point into (M-BEIR, CIRR)")
    group.add_argument(
        "--column", action="append", default=[], metavar="OURS=THEIRS", help="their column that is ours; repeatable"
    )
    group.add_argument("--stage", metavar="NAME", help="of a recipe with several stages: whose data")


def read_sources(arguments: argparse.Namespace) -> NamedData:
    """Return the sources that the arguments name; nothing of them is opened.

    Raises ConfigError for arguments that do not go together, an unknown format or key, and a YAML file that cannot be
    read.
    """
    files = list(filter(names_sources, arguments.data))
    if not files:
        _refuse(arguments, ("stage",), "is of a recipe, and no DATA is a YAML file")
        return NamedData(tuple(_source(path, arguments) for path in arguments.data))
    if len(arguments.data) > 1:
        raise ConfigError(f"{files[0]} names sources by itself; give it alone, or write the others into it")
    _refuse(arguments, (*_GIVEN, "column"), f"has no meaning beside {files[0]}, whose sources say so themselves")
    return _from_yaml(Path(files[0]), arguments.stage)


def names_sources(name: str) -> bool:
    """Return whether DATA is no source itself: a file that names some, or the name of a recipe that ships."""
    return name.lower().endswith(_YAML) or _ships(name)


def _ships(name: str) -> bool:
    """Return whether a name is that of a recipe that ships, and of nothing that lies here."""
    from ..recipe.layers import RECIPES

    return name == Path(name).name and not Path(name).exists() and (RECIPES / f"{name}.yaml").is_file()


def _refuse(arguments: argparse.Namespace, options: tuple[str, ...], why: str) -> None:
    for option in options:
        if getattr(arguments, option):
            raise ConfigError(f"--{option} {why}; leave it out")


def _source(path: str, arguments: argparse.Namespace) -> DataSource:
    columns = dict(map(_column, arguments.column))
    given = {name: getattr(arguments, name) for name in _GIVEN if getattr(arguments, name) is not None}
    if columns:
        given = {"format": "columns", **given, "columns": columns}
    if "format" not in given and _is_file(path):
        from ..data.formats import FORMATS

        known = ", ".join(sorted(FORMATS.keys() - {"folder"}))
        raise ConfigError(f"{path} is no data folder: say with --format how it is written ({known})")
    return _checked(f"DATA {path}", [{"path": path, **given}])[0]


def _is_file(path: str) -> bool:
    return Path(path).is_file() or any(mark in path for mark in "*?[")


def _column(given: str) -> tuple[str, str]:
    ours, _, theirs = given.partition("=")
    if not ours or not theirs:
        raise ConfigError(f"--column is OURS=THEIRS, say --column image=picture, not '{given}'")
    return ours, theirs


def _from_yaml(file: Path, stage: str | None) -> NamedData:
    """Return the sources of a file: a list of them, a mapping with `data`, or a recipe."""
    from mllm_embed.yaml_text import read_yaml

    from ..recipe.layers import find_recipe

    raw = read_yaml(find_recipe(file) if _ships(str(file)) else file, "file of sources")
    if isinstance(raw, dict) and "data" not in raw:
        from ..recipe.recipe_files import load_any

        found = _stage_of(file, load_any(file), stage)
        return NamedData(found.data_to_mine, found)
    if stage:
        raise ConfigError(f"--stage is of a recipe, and {file} is a list of sources; leave it out")
    listed = raw["data"] if isinstance(raw, dict) else raw
    if not listed:
        raise ConfigError(f"{file} names no sources: list them as a recipe's `data` does, {{path: ..., format: ...}}")
    return NamedData(_checked(str(file), listed))


def _stage_of(file: Path, recipe: Recipe | RerankRecipe, name: str | None) -> RowStage:
    stages: dict[str, Any] = recipe.stages
    if name is None and len(stages) == 1:
        return next(iter(stages.values()))
    if name not in stages:
        what = f"has no stage '{name}'{did_you_mean(name, stages)}" if name else "has several stages"
        raise ConfigError(f"recipe {file} {what}; say with --stage which: {', '.join(stages)}")
    return stages[name]


def _checked(where: str, raw: Any) -> tuple[DataSource, ...]:
    """Return sources as a recipe's `data` takes them. Raises ConfigError, naming `where`, for keys or values amiss."""
    from pydantic import TypeAdapter, ValidationError

    from ..recipe.recipe_files import one_sentence
    from ..recipe.stage_keys.rows import Sources

    try:
        return TypeAdapter(Sources).validate_python(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {one_sentence(error)}") from error
