"""`mllm-embed-train plan RECIPE`: what a run will take, before anything is loaded or fetched."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

from mllm_embed.errors import ConfigError

from .recipe_options import add_recipe_options, read_recipe

_HELP = """\
examples:
  %(prog)s qwen2-vl-2b --memory 24
  %(prog)s qwen2-vl-7b --memory 80 --override stages.instructions.batch_size=32
  %(prog)s my.yaml --picture 1024x768

It builds the model from its config, without weights (from the model's folder, the hub's cache, or the shapes of public
models that ship with the library; nothing is fetched), and runs one step of each stage on tensors without data. What it
prints is the peak of that step, when all inputs of a batch are distinct and as long as the longest. A stage whose data
is not on disk is planned with a caption of COCO's length, and pictures of 640 x 480 or as --picture says.
The exit code is 0 where the run fits the memory, 2 where it does not.
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    plan = commands.add_parser(
        "plan",
        help="tell what a recipe takes: memory, tokens and steps, before anything is loaded",
        description="Tell what a recipe will take: parameters, tokens, memory, steps. Loads and fetches nothing.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_recipe_options(plan)
    plan.add_argument(
        "--memory", type=float, metavar="GIB", help="plan for a GPU of so many GiB (default: the one here, or the RAM)"
    )
    plan.add_argument(
        "--picture", type=_size, metavar="WxH", help="pictures' size as decoded (default: what the data has)"
    )
    plan.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    memory = arguments.memory
    if memory is not None and not (math.isfinite(memory) and memory > 0):
        raise ConfigError(f"--memory must be above 0, not {memory}")
    recipe = read_recipe(arguments)

    from ..plan.plan import check_fits, describe, make_plan

    plan = make_plan(recipe, memory, arguments.picture)
    sys.stdout.write(f"{describe(recipe, plan)}\n")
    check_fits(recipe, plan)
    return 0


def _size(text: str) -> tuple[int, int]:
    from mllm_embed.inputs.images import MAX_PIXELS

    try:
        width, height = map(int, text.lower().split("x"))
    except ValueError:
        width = height = 0
    if width < 1 or height < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size; write it as 1024x768")
    if width * height > MAX_PIXELS or max(width, height) > 200 * min(width, height):
        raise argparse.ArgumentTypeError(f"'{text}' is larger or thinner than any picture that models read")
    return width, height
