"""`mllm-embed-eval rows`: a benchmark as files of rows, which `mllm-embed encode` makes stores of."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .suite_options import add_benchmark_options, add_command, named_suite, need_folder

_HELP = """\
what it does
  Writes DIR/gallery.jsonl and DIR/queries.jsonl, one such pair a task (DIR/dress/gallery.jsonl ...); a task that
  searches the gallery of another has its queries alone, and all queries may go into one store where none are called
  alike: a folder whose gallery has captions has a second task, captions/queries.jsonl. Pictures are named by their
  whole paths. Crops, several pictures in one row, queries that are a picture alone, and queries that are asked in
  several wordings have no such row: for these give `mllm-embed-eval run ... --save-vectors`.

examples
  %(prog)s my_folder --output rows
  mllm-embed encode rows/gallery.jsonl --output stores/gallery --model M
  mllm-embed encode rows/queries.jsonl rows/captions/queries.jsonl --output stores/queries --model M
  mllm-embed-eval score my_folder --vectors stores/gallery --queries stores/queries
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    rows = add_command(commands, "rows", _run, "write a benchmark as rows that mllm-embed encode reads", _HELP)
    add_benchmark_options(rows)
    rows.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder for the files")


def _run(arguments: argparse.Namespace) -> int:
    from ..scoring.rows import words_of_its_own, write_rows

    suite = named_suite(arguments)
    need_folder(arguments.output, "--output")
    for path, count in write_rows(suite, arguments.output).items():
        sys.stdout.write(f"wrote {count:,} rows to {path}\n")
    if note := words_of_its_own(suite):
        sys.stderr.write(f"note: {note}\n")
    return 0
