"""`mllm-embed-eval check`: whether a benchmark's files are all there, before hours are spent."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .suite_options import add_benchmark_options, add_command, given_options, named_benchmark

if TYPE_CHECKING:
    from ..benchmarks.base import Count
    from ..scoring.suite import Task


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    check = add_command(commands, "check", _run, "say what is there, what is missing, and where to get it")
    add_benchmark_options(check)


def _run(arguments: argparse.Namespace) -> int:
    from ..benchmarks import benchmark_named, check_benchmark

    name, data = named_benchmark(arguments)
    counts, suite = check_benchmark(
        name, data, images=arguments.images, split=arguments.split, options=given_options(arguments)
    )
    _print(map(_count_line, counts))
    _print(map(_task_line, suite.tasks if suite else ()))
    if suite is not None and all(count.found == count.of for count in counts):
        command = "run" if suite.labelled else "submit"
        _print([f"ready: mllm-embed-eval {command} {arguments.benchmark} ..."])
        return 0
    benchmark = benchmark_named(name)
    _print([f"annotations: {benchmark.annotations}"])
    if benchmark.pictures:
        _print([f"pictures: {benchmark.pictures}"])
    return 1


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")


def _count_line(count: Count) -> str:
    state = "ok     " if count.found == count.of else "MISSING"
    missing = f", first missing: {count.missing}" if count.missing else ""
    return f"{state} {count.what}: {count.found:,} of {count.of:,}{missing}"


def _task_line(task: Task) -> str:
    where = f"{task.name}: " if task.name else ""
    return f"        {where}{len(task.queries):,} queries, gallery of {len(task.gallery):,}"
