"""`mllm-embed-train run RECIPE`, or `mllm-embed-train RECIPE`: train the stages of a recipe."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mllm_embed.errors import ConfigError

from .recipe_options import add_help_with_keys, add_recipe_options, read_recipe

_HELP = """\
examples:
  %(prog)s demo
  %(prog)s instructcir --override model=llava-hf/llava-1.5-7b-hf --override stages.captions.data=my_data
  %(prog)s my.yaml --override stages.instructions.steps=200 --override output=runs/short

A run that was stopped goes on when the same command is given again. Every stage leaves an adapter folder in
OUTPUT/STAGE, which MLLMEmbedder.from_pretrained(MODEL, adapter=OUTPUT/STAGE) loads. OUTPUT/log.jsonl holds what was
measured, OUTPUT/report.png draws it and OUTPUT/report.md sums it up; so does `tensorboard --logdir OUTPUT`, live.
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    run = commands.add_parser(
        "run",
        help="train the stages of a recipe",
        description="Turn a multimodal LLM into an instruction-aware embedder by contrastive training, stage by stage.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    add_recipe_options(run)
    run.add_argument(
        "--strict", action="store_true", help="end before training where the rows ask what a validation asks too"
    )
    add_help_with_keys(run)
    run.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    recipe = read_recipe(arguments)  # a bad recipe is told before the slow imports

    from ..recipe.config import Recipe
    from ..reranking.stages import run_rerank
    from ..run.stages import run_recipe
    from ..run.stopping import EXIT_CODE, STOPPED, Stopped

    try:
        if isinstance(recipe, Recipe):
            run_recipe(recipe, strict=arguments.strict)
        elif arguments.strict:
            raise ConfigError(
                "--strict looks for leaks into a validation, which a re-ranker's recipe has not; leave it out"
            )
        else:
            run_rerank(recipe)
    except Stopped:
        sys.stderr.write(STOPPED)
        return EXIT_CODE
    sys.stdout.write(f"adapters: {', '.join(str(Path(recipe.output) / name) for name in recipe.stages)}\n")
    return 0
