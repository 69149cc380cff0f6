"""The options by which every command of the evaluator names a benchmark, the suite they name, and the output folder."""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.errors import ConfigError

from ..reports.pages import MEGABYTES
from ..scoring.score import DEFAULT_TIES, TIES

if TYPE_CHECKING:
    from ..benchmarks.base import Benchmark
    from ..scoring.suite import Suite


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], about: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """Add a command to those of a parser, and return its own parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_benchmark_options(parser: argparse.ArgumentParser) -> None:
    """Add NAME, --data, --images, --split and --option, and the benchmarks with their options to the epilog."""
    from ..benchmarks import BENCHMARKS

    names = "\n".join(map(_description, BENCHMARKS.values()))
    parser.epilog = f"benchmarks (the first value is the default)\n{names}\n\n{parser.epilog or ''}"
    parser.add_argument("benchmark", metavar="NAME", help="a benchmark, see below; or a folder with a benchmark.json")
    parser.add_argument("--data", metavar="ROOT", type=Path, help="the benchmark's folder")
    parser.add_argument("--images", metavar="DIR", type=Path, help="folder of its pictures, if that is another one")
    parser.add_argument("--split", metavar="S", help="see below")
    parser.add_argument("--option", metavar="K=V", nargs="+", action="extend", default=[], help="see below")


def add_only_option(parser: argparse.ArgumentParser, *flags: str) -> None:
    """Add --only-queries, and further names for it."""
    parser.add_argument(
        *flags,
        "--only-queries",
        metavar="FILE",
        type=Path,
        dest="only_queries",
        help="score these queries alone, galleries whole: an id a line (of several tasks TASK/ID), or JSON; the "
        "result's title says so, and it never shares a table with the whole",
    )


def add_ties_option(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Add --ties."""
    parser.add_argument("--ties", choices=TIES, default=DEFAULT_TIES, help=f"which of equal scores comes first{note}")


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """Add --task and --document-task."""
    parser.add_argument(
        "--task",
        metavar="T",
        help="instruction for the queries of a model that takes one (default: its preset's for the benchmark)",
    )
    parser.add_argument("--document-task", metavar="T", help="instruction for the gallery")


def add_thumbnails_option(parser: argparse.ArgumentParser) -> None:
    """Add --thumbnails."""
    parser.add_argument(
        "--thumbnails",
        metavar="MB",
        type=float,
        default=MEGABYTES,
        help=f"room for small pictures in report.html; 0 for none (default {MEGABYTES:g})",
    )


def check_thumbnails(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for a size of thumbnails that is none."""
    if not 0 <= arguments.thumbnails < math.inf:
        raise ConfigError(f"--thumbnails must be 0 or more megabytes, not {arguments.thumbnails:g}")


def check_tasks(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for an instruction without words."""
    for flag in ("task", "document_task"):
        given = getattr(arguments, flag)
        if given is not None and not given.strip():
            raise ConfigError(f"--{flag.replace('_', '-')} is empty; give an instruction, or leave it out")


def _description(benchmark: Benchmark) -> str:
    lines = [f"  {benchmark.name:<10} {benchmark.about}"]
    lines += [f"{'':13}--option {key}={'|'.join(values)}" for key, values in benchmark.options.items()]
    if len(benchmark.splits) > 1:
        lines.append(f"{'':13}--split {'|'.join(benchmark.splits)}")
    return "\n".join(lines)


def named_benchmark(arguments: argparse.Namespace) -> tuple[str, Path]:
    """Return the benchmark's name and folder; a folder given in place of a name is one in the folder format.

    Raises ConfigError for a name that is neither, and where --data is missing or has no meaning.
    """
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
    """Return the values of --option by key. Raises ConfigError for one without "=", and one that is given twice."""
    options: dict[str, str] = {}
    for text in arguments.option:
        key, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--option takes KEY=VALUE, not '{text}'")
        if key in options:
            raise ConfigError(f"--option {key} is given twice")
        options[key] = value
    return options


def named_suite(arguments: argparse.Namespace, pictures: bool | None = True) -> Suite:
    """Open the benchmark that the options name, with the queries of --only-queries alone where it is given.

    `pictures`: whether its pictures must be there, as of `open_suite`. Raises as `whole_suite`, and `query_lists.only`.
    """
    suite, path = whole_suite(arguments, pictures), getattr(arguments, "only_queries", None)
    if path is None:
        return suite

    from ..reports.query_lists import only

    return only(path, suite)


def whole_suite(arguments: argparse.Namespace, pictures: bool | None = True) -> Suite:
    """Open the benchmark that the options name, with all of its queries.

    Raises as `named_benchmark`, `given_options` and `benchmarks.open_suite`.
    """
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


def output_folder(arguments: argparse.Namespace, root: str, suite: Suite, source: str | Path) -> Path:
    """Return --output, or a folder below `root` named after the suite, the options, and what is measured (`source`).

    Raises ConfigError where it cannot be written to.
    """
    output: Path = arguments.output or Path(root) / _folder_name(arguments, suite, source)
    need_folder(output, "--output")
    return output


def _loaded_otherwise(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield a word for each option of loading that decides vectors and is given: such a run stands beside the usual."""
    for flag in ("quantization", "dim", "max_tokens", "truncate", "jpeg_side", "thoughts"):
        value = getattr(arguments, flag, None)
        if value is not None:
            yield f"{flag.replace('_', '-')}-{value}"


def _folder_name(arguments: argparse.Namespace, suite: Suite, source: str | Path) -> str:
    """Return benchmark, split and options as given, what was measured, and what is not the usual way, in one word."""
    tasks = [getattr(arguments, flag, None) for flag in ("task", "document_task")]
    small = getattr(arguments, "query_model", None) and (arguments.query_adapter or arguments.query_model)
    strength = getattr(arguments, "edit_strength", 1)
    ties = getattr(arguments, "ties", DEFAULT_TIES)
    words = [
        suite.name,
        suite.split,
        *given_options(arguments).values(),
        _source_name(source).removesuffix(".json"),
        *(Path(getattr(arguments, flag, None) or "").stem for flag in ("preset", "prompts")),
        f"only-{suite.chosen}" if suite.chosen else "",
        f"task-{hashlib.sha256(repr(tasks).encode()).hexdigest()[:8]}" if any(tasks) else "",
        _source_name(small) if small else "",
        "" if strength == 1 else f"edit-{strength:g}",
        "" if ties == DEFAULT_TIES else ties,
        *_loaded_otherwise(arguments),
    ]
    return re.sub(r"[^\w.-]+", "_", "-".join(filter(None, words))).strip("._-") or "benchmark"


def _source_name(path: str | Path) -> str:
    # two parts of the path: every run of ours calls its last stage's folder alike
    return "-".join(Path(path).parts[-2:])


def need_folder(path: Path, flag: str) -> None:
    """Raise ConfigError unless the folder is there, or can be made, and can be written to.

    It is asked before a model is loaded, so that no hours of encoding end in an error of the disk.
    """
    # the nearest folder that exists is the one that must let us write
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f"{flag} {path}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"{flag} {path} cannot be written: no permission in {there}")
