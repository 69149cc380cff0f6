"""`mllm-embed-eval list`: all benchmarks, with their sizes, rules and options, and where to get them."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mllm_embed.files import json_bytes

from .suite_options import add_command

if TYPE_CHECKING:
    from ..benchmarks.base import Benchmark

_WIDTH, _INDENT = 110, 16
_HELP = """\
examples
  %(prog)s                     all of them
  %(prog)s pinpoint icir       some of them
  %(prog)s --json              for programs: a list of objects

The first split, and the first value of an option, is the default.
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    listing = add_command(
        commands, "list", _run, "list all benchmarks: sizes, rules, options, where to get them", _HELP
    )
    listing.add_argument("names", metavar="NAME", nargs="*", help="benchmarks (default: all)")
    listing.add_argument("--json", action="store_true", help="print JSON")


def _run(arguments: argparse.Namespace) -> int:
    from ..benchmarks import BENCHMARKS, benchmark_named

    chosen = [benchmark_named(name) for name in arguments.names or BENCHMARKS]
    if arguments.json:
        sys.stdout.write(json_bytes(list(map(_entry, chosen)), indent=2).decode())
    else:
        sys.stdout.write("\n\n".join("\n".join(_lines(benchmark)) for benchmark in chosen) + "\n")
    return 0


def _entry(benchmark: Benchmark) -> dict[str, Any]:
    """Return a benchmark as plain JSON; the first split, and the first value of an option, is the default."""
    from ..reports.submission import SERVERS

    return {
        "name": benchmark.name,
        "about": benchmark.about,
        "sizes": benchmark.sizes,
        "rule": benchmark.rule,
        "splits": list(filter(None, benchmark.splits)),
        "options": {key: list(values) for key, values in benchmark.options.items()},
        "annotations": benchmark.annotations,
        "pictures": benchmark.pictures,
        "servers": [asdict(server) for server in SERVERS.get(benchmark.name, ())],
    }


def _lines(benchmark: Benchmark) -> Iterator[str]:
    """Yield a benchmark's lines for people."""
    yield f"{benchmark.name}: {benchmark.about}"
    entry = _entry(benchmark)
    choices = [f"--split {' | '.join(entry['splits'])}"] if len(entry["splits"]) > 1 else []
    choices += [f"--option {key}={' | '.join(values)}" for key, values in entry["options"].items()]
    shown = {
        "sizes": [entry["sizes"]],
        "rule": [entry["rule"]],
        "choices": choices,
        "annotations": [entry["annotations"]],
        "pictures": [entry["pictures"]],
        "servers": [f"{server['address']}: {server['takes']}" for server in entry["servers"]],
    }
    for name, texts in shown.items():
        for number, text in enumerate(filter(None, texts)):
            head = f"  {name if not number else '':<{_INDENT - 2}}"
            yield textwrap.fill(
                text,
                _WIDTH,
                initial_indent=head,
                subsequent_indent=" " * _INDENT,
                break_long_words=False,
                break_on_hyphens=False,
            )
