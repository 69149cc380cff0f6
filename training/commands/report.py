"""`mllm-embed-train report RUN`: a run's log as curves, report.png, and in a few lines, report.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    report = commands.add_parser(
        "report",
        help="draw a run's log as curves, and tell it in a few lines",
        description="Draw a run's log as curves, report.png, and tell it in a few lines, report.md.",
    )
    report.add_argument("run_folder", metavar="RUN", type=Path, help="output folder of a training run, finished or not")
    report.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..report.report import PICTURE, TEXT, write_report

    folder = arguments.run_folder
    sys.stdout.write("\n".join([*write_report(folder), f"{folder / PICTURE}, {folder / TEXT}"]) + "\n")
    return 0
