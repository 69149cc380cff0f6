"""`mllm-embed-eval robustness`: other words, explicit negatives, and either half exchanged."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mllm_embed.commands.model_options import add_model_options, load_embedder

from .suite_options import add_benchmark_options, add_command, add_only_option, named_suite, output_folder

_ABOUT = "other words, explicit negatives, and either half exchanged"
_HELP = """\
what it does
  Asks every composed query again in other words, with another query's picture, and with another query's instruction,
  and measures: what the wordings find (mean, worst, best, how often the same first answer), how often the unchanged
  picture or an explicit negative stands above the target, and how far the vector moves when either half is exchanged.
  A vector that hardly moves ignores that half, and the last lines say so.

words and negatives
  A folder's benchmark.json may give each query "paraphrases" (a list of instructions) and "negatives" (gallery ids that
  its words rule out). Without the first, four wordings are made by rule.

what it leaves in the output folder
  robustness.json     every measure with its 95 %% interval

examples
  %(prog)s my_folder --model runs/base --adapter runs/stage2
  %(prog)s cirr --data ~/data/cirr --model M --adapter A
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    robustness = add_command(commands, "robustness", _run, _ABOUT, _HELP)
    add_benchmark_options(robustness)
    add_model_options(robustness)
    add_only_option(robustness, "--only")
    robustness.add_argument("--output", metavar="DIR", type=Path, help="default: runs/robustness/<benchmark>-<model>")


def _run(arguments: argparse.Namespace) -> int:
    suite = named_suite(arguments)
    output = output_folder(arguments, "runs/robustness", suite, arguments.adapter or arguments.model)

    from ..reports.report import settings_of
    from ..studies.compare_methods import composed_part
    from ..studies.robustness import robustness, robustness_table, write_robustness

    # raises for a suite that has nothing to work on, before the model is loaded
    composed_part(suite)
    embedder = load_embedder(arguments)
    found = robustness(embedder, suite, batch_size=arguments.batch_size)
    written = write_robustness(found, output, settings_of(embedder, arguments.model, arguments.adapter))
    sys.stdout.write(f"{robustness_table(found)}\n\nwrote {written}\n")
    return 0
