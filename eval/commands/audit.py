"""`mllm-embed-eval audit`: which queries a half finds alone, over one or several results, and lists of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .suite_options import add_command, need_folder

_ABOUT = "which queries need both halves, over one or several results, and lists of them"
_HELP = """\
what it does
  Tells of every composed query whether the picture alone finds it, the words alone, both (each by itself) or neither,
  at the benchmark's own K or at --at METRIC. With several results of one benchmark a half finds what it finds for any
  of them, as in the audit of CIRCUS (arXiv 2605.14787; eleven models, R@10): then "composition required" is what only
  whole queries find, and "unresolved" what nothing does.

lists
  --lists DIR writes image-only.txt, text-only.txt, both.txt, neither.txt, composition-required.txt and unresolved.txt,
  a query id a line, which --only of `run`, `score` and `robustness`, and --only-queries of `methods`, take.

examples
  %(prog)s runs/eval/shipped
  %(prog)s runs/eval/cirr-a runs/eval/cirr-b runs/eval/cirr-c --at R@10 --lists lists
  mllm-embed-eval run cirr --data ~/data/cirr --model M --adapter A --only lists/neither.txt
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    audit = add_command(commands, "audit", _run, _ABOUT, _HELP)
    audit.add_argument("results", metavar="RESULT", type=Path, nargs="+", help="output folders of run or score")
    audit.add_argument("--at", metavar="METRIC", help="by which a query counts as found (default: the benchmark's own)")
    audit.add_argument("--lists", metavar="DIR", type=Path, help="write the lists of queries")
    audit.add_argument("--format", choices=("markdown", "latex"), default="markdown", help="default: markdown")


def _run(arguments: argparse.Namespace) -> int:
    from ..reports.audit import audit_blocks, pool, write_lists
    from ..reports.seeds import read_runs
    from ..reports.tables import STYLES

    if arguments.lists:
        need_folder(arguments.lists, "--lists")
    results = read_runs(arguments.results)
    pooled = pool(results, arguments.at)
    sys.stdout.write(f"{STYLES[arguments.format](audit_blocks(results, pooled))}\n")
    if arguments.lists:
        written = (f"{path} ({count:,})" for path, count in write_lists(pooled, arguments.lists).items())
        sys.stderr.write(f"wrote {', '.join(written)}\n")
    return 0
