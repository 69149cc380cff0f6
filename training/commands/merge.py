"""`mllm-embed-train merge A B`: the weighted sum of adapters of one base, as an ordinary adapter."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mllm_embed.errors import ConfigError

_HELP = """\
what it does
  Adds what the adapters add to their common base, each times its weight. LoRA updates are added exactly, at the price
  of a rank that is the sum of theirs; --rank cuts them back to the nearest update of that rank and says what is lost.
  The projector, trained in full, becomes base + sum of weight times its change: with weights that sum to 1 the
  weighted average. Weights may sum to anything (two that sum to 1.2 go further than either); it is said where they do
  not sum to 1. The base is not touched, and only loaded where the projector is no plain average.

  The adapters must agree in base, prompts, pooling and attention. Nothing says that a sum is better than its parts:
  evaluate it.

examples
  %(prog)s runs/shoes/captions runs/shoes/instructions --weights .3 .7 --output runs/sum
  %(prog)s runs/a runs/b runs/c --rank 16 --output runs/sum        (equal weights)
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    merge = commands.add_parser(
        "merge",
        help="add adapters of one base with weights",
        description="Add adapters of one base with weights.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    merge.add_argument("adapters", nargs="+", type=Path, metavar="ADAPTER", help="adapter folders")
    merge.add_argument("--weights", nargs="+", type=float, metavar="W", help="one for each (default: equal, sum 1)")
    merge.add_argument("--output", type=Path, required=True, metavar="DIR", help="the new adapter's folder")
    merge.add_argument("--rank", type=int, metavar="R", help="cut back to this rank (default: the sum of the ranks)")
    merge.add_argument("--model", metavar="M", help="the base, if it is not where it was at training")
    merge.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..merging.adapter_merge import check_weights
    from ..merging.merge import check_merge_output, merge

    count = len(arguments.adapters)
    weights = arguments.weights if arguments.weights is not None else [1 / count] * count
    check_weights(weights, count)
    check_merge_output(arguments.output, arguments.adapters)
    if arguments.rank is not None and arguments.rank < 1:
        raise ConfigError(f"--rank must be at least 1, not {arguments.rank}")
    lines = merge(arguments.adapters, weights, arguments.output, arguments.rank, arguments.model)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
