"""`mllm-embed-eval compare`: results side by side, with published ones and paired tests."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .suite_options import add_command

_ABOUT = "results side by side, with published ones and paired tests"


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    compare = add_command(commands, "compare", _run, _ABOUT)
    compare.add_argument("results", metavar="RESULT", type=Path, nargs="+", help="output folders of run or score")
    compare.add_argument("--format", choices=("markdown", "latex"), default="markdown", help="default: markdown")


def _run(arguments: argparse.Namespace) -> int:
    from ..reports.compare import compare

    sys.stdout.write(f"{compare(arguments.results, arguments.format)}\n")
    return 0
