"""What the commands of the evaluator share: how a benchmark is named, the suite it names, and the output folder."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_embed.errors import ConfigError

if TYPE_CHECKING:
    from ..scoring.suite import Suite

TIES = ("gallery", "optimistic", "pessimistic")


def add_command(commands: argparse._SubParsersAction, name: str, run, about: str, epilog: str = ""):
    parser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    return parser


def add_benchmark_options(parser: argparse.ArgumentParser) -> None:
    from ..benchmarks import BENCHMARKS

    names = "\n".join(
        f"  {b.name:<10} {b.about}"
        + "".join(f"\n{'':13}--option {key}={'|'.join(values)}" for key, values in b.options.items())
        + (f"\n{'':13}--split {'|'.join(b.splits)}" if len(b.splits) > 1 else "")
        for b in BENCHMARKS.values()
    )
    parser.epilog = f"benchmarks (the first value is the default)\n{names}\n\n{parser.epilog or ''}"
    parser.add_argument("benchmark", metavar="NAME", help="a benchmark, see below; or a folder with a benchmark.json")
    parser.add_argument("--data", metavar="ROOT", type=Path, help="the benchmark's folder")
    parser.add_argument("--images", metavar="DIR", type=Path, help="folder of its pictures, if that is another one")
    parser.add_argument("--split", metavar="S", help="see below")
    parser.add_argument("--option", metavar="K=V", nargs="+", action="extend", default=[], help="see below")


def named_benchmark(arguments: argparse.Namespace) -> tuple[str, Path]:
    """The benchmark's name and folder; a folder given in place of a name is one in the folder format."""
    from ..benchmarks import BENCHMARKS

    if arguments.benchmark in BENCHMARKS:
        if arguments.data is None:
            raise ConfigError(f"--data is missing: the folder of {arguments.benchmark}")
        return arguments.benchmark, arguments.data
    folder = Path(arguments.benchmark)
    known = ", ".join(BENCHMARKS)
    if arguments.data or arguments.images:
        raise ConfigError(f"--data and --images belong to a benchmark's name, and {folder} is none of {known}")
    if not folder.is_dir():
        raise ConfigError(f"'{folder}' is neither a benchmark ({known}) nor a folder with a benchmark.json")
    return "folder", folder


def given_options(arguments: argparse.Namespace) -> dict[str, str]:
    options = {}
    for text in arguments.option:
        key, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--option takes KEY=VALUE, not '{text}'")
        if key in options:
            raise ConfigError(f"--option {key} is given twice")
        options[key] = value
    return options


def named_suite(arguments: argparse.Namespace, pictures: bool = True) -> Suite:
    # Everything that can be wrong without a model is looked at before the slow imports.
    from ..benchmarks import open_suite

    name, data = named_benchmark(arguments)
    return open_suite(
        name,
        data,
        images=arguments.images,
        split=arguments.split,
        options=given_options(arguments),
        pictures=pictures,
    )


def slug(suite: Suite, arguments: argparse.Namespace, source: str | Path) -> str:
    """A folder name: benchmark, split and options as given, what was measured, and what is not the usual way."""
    ties = getattr(arguments, "ties", TIES[0])
    # two parts of the path: every run of ours calls its last stage's folder alike
    name = "-".join(Path(source).parts[-2:]).removesuffix(".json")
    small = getattr(arguments, "query_model", None) and (arguments.query_adapter or arguments.query_model)
    strength = getattr(arguments, "edit_strength", 1)
    words = [
        suite.name, suite.split, *given_options(arguments).values(), name,
        "-".join(Path(small).parts[-2:]) if small else "",
        "" if strength == 1 else f"edit-{strength:g}",
        "" if ties == TIES[0] else ties,
    ]  # fmt: skip
    return re.sub(r"[^\w.-]+", "_", "-".join(filter(None, words))).strip("._-") or "benchmark"


def need_folder(path: Path, flag: str) -> None:
    """Before hours are spent: the folder is there or can be made, and can be written to."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f"{flag} {path}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"{flag} {path} cannot be written: no permission in {there}")
