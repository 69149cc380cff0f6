"""`mllm-embed-eval compare`: results side by side, with published ones and paired tests."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.errors import ConfigError

from .suite_options import add_command, add_thumbnails_option, check_thumbnails, need_folder

if TYPE_CHECKING:
    from ..reports.saved_result import SavedResult
    from ..scoring.suite import Suite

_ABOUT = "results side by side, with published ones and paired tests"
_HELP = """\
what it does
  Prints a table for each protocol, beside published results by the same rules, and a paired test of every two results.
  Where the halves of the queries were measured it has the composition gap, and what each run finds of the queries that
  no half of any run finds. Several seeds of one model are one run, NAME=FOLDER,FOLDER,...: their mean and standard
  deviation, and tests over reference pictures and seeds.
  Of two results of the same queries and rules it also writes a page for a browser, DIR/report.html, one file with all
  in it: wins, losses and ties, query by query, with the answers of both, to be filtered and sorted. Words and pictures
  are those of the report.html in both folders; --data takes them from the benchmark itself, for older results say.

examples
  %(prog)s runs/eval/shipped runs/eval/base
  %(prog)s A=runs/a-1,runs/a-2,runs/a-3 B=runs/b-1,runs/b-2,runs/b-3     three seeds each, as one line each
  %(prog)s runs/eval/a runs/eval/b runs/eval/c --format latex > table.tex
  %(prog)s runs/methods/cirr/plain runs/methods/cirr/edit-strength --data ~/data/cirr --output runs/compare/edit
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    compare = add_command(commands, "compare", _run, _ABOUT, _HELP)
    compare.add_argument(
        "results",
        metavar="RESULT",
        type=Path,
        nargs="+",
        help="output folders of run or score; several of one model, one a seed: NAME=FOLDER,FOLDER,...",
    )
    compare.add_argument("--format", choices=("markdown", "latex"), default="markdown", help="default: markdown")
    compare.add_argument("--output", metavar="DIR", type=Path, help="for the page; default: runs/compare/<one>-<other>")
    compare.add_argument("--data", metavar="ROOT", type=Path, help="the benchmark's folder, for words and pictures")
    compare.add_argument("--images", metavar="DIR", type=Path, help="folder of its pictures, if that is another one")
    add_thumbnails_option(compare)


def _run(arguments: argparse.Namespace) -> int:
    from ..reports.compare import comparison
    from ..reports.pages.comparison_page import incomparable
    from ..reports.seeds import read_runs
    from ..reports.tables import STYLES

    check_thumbnails(arguments)
    results = read_runs(arguments.results)
    why_not = incomparable(results)
    for flag in ("output", "data", "images"):
        if why_not and getattr(arguments, flag):
            raise ConfigError(f"--{flag} is for the page of two results, and there is none: {why_not}")
    if arguments.images and not arguments.data:
        raise ConfigError("--images belongs to --data, the benchmark's folder")
    if arguments.output:
        need_folder(arguments.output, "--output")
    sys.stdout.write(f"{STYLES[arguments.format](comparison(results))}\n")
    # what is said of the page goes beside the document, which may go to a file
    if why_not is None:
        sys.stderr.write(f"{_page(arguments, results)}\n")
    elif len(results) == 2:
        sys.stderr.write(f"no page: {why_not}\n")
    return 0


def _page(arguments: argparse.Namespace, results: Sequence[SavedResult]) -> str:
    """Write the page of two results, and return in words where it is, or why there is none."""
    from ..reports.compare import labels_of
    from ..reports.pages.comparison_page import write_comparison

    names = (re.sub(r"[^\w.-]+", "_", name).strip("._-") or "result" for name in labels_of(results))
    output = arguments.output or Path("runs/compare") / "-".join(names)
    try:
        need_folder(output, "--output")
    except ConfigError as error:
        # nobody has asked for a page here: the tables are there all the same
        return f"no page: {error}; name another folder with --output"
    suite = _suite(arguments, results[0]) if arguments.data else None
    return f"wrote {write_comparison(results, output, suite, arguments.thumbnails)}"


def _suite(arguments: argparse.Namespace, result: SavedResult) -> Suite:
    """Open the benchmark that a result is of, in the folder that --data names."""
    from ..benchmarks import BENCHMARKS, open_suite
    from ..reports.pages.saved_content import chosen_as

    # a folder of one's own is called as it likes
    name = result.name if result.name in BENCHMARKS and (result.split or result.options) else "folder"
    own = {"split": result.split, "options": result.options, "images": arguments.images} if name != "folder" else {}
    suite = open_suite(name, arguments.data, pictures=None, **own)
    return chosen_as(suite, result)
