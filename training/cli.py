"""`python -m training RECIPE`: train the stages of a recipe; `python -m training COMMAND ...`: the work around it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mllm_embed.errors import user_errors

# module, whose main(argv) it is, and what it does
COMMANDS = {
    "make-triplets": (".triplets.cli", "make triplets from image-caption pairs by a language model"),
    "mine": (".mining.mine", "find hard negatives for the rows of a data folder, and clusters of rows for batches"),
    "merge": (".merging.merge", "add adapters of one base with weights: an adapter soup"),
    "plan": (".plan.plan", "tell what a recipe takes: memory, tokens and steps, before anything is loaded"),
    "report": (".report.report", "draw a run's log as curves, and tell it in a few lines"),
}

EPILOG = """examples:
  python -m training training/recipes/demo.yaml
  python -m training instructcir --override model=llava-hf/llava-1.5-7b-hf --override stages.captions.data=my_data
  python -m training my.yaml --override stages.instructions.steps=200 --override output=runs/short
  python -m training plan qwen2-vl-2b --memory 24      (memory, tokens and steps, before anything is loaded)

A run that was stopped goes on when the same command is given again. Every stage leaves an adapter folder in
OUTPUT/STAGE, which MLLMEmbedder.from_pretrained(MODEL, adapter=OUTPUT/STAGE) loads. OUTPUT/log.jsonl holds what was
measured, OUTPUT/report.png draws it and OUTPUT/report.md sums it up; so does `tensorboard --logdir OUTPUT`, live.

commands beside it, each with a --help of its own:
{commands}

keys of a recipe:
"""


class _Help(argparse.Action):
    """--help with the recipe's keys, which are only worth an import when somebody asks."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, nargs=0, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None):
        from .recipe.recipe_files import describe_keys

        commands = "\n".join(f"  {name:<24}{told}" for name, (_, told) in COMMANDS.items())
        parser.epilog = EPILOG.format(commands=commands) + describe_keys()
        parser.print_help()
        parser.exit()


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv and argv[0] in COMMANDS:  # a recipe file of that name is still reached as ./plan or plan.yaml
        return import_module(COMMANDS[argv[0]][0], __package__).main(argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m training", add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Turn a multimodal LLM into an instruction-aware embedder by contrastive training, stage by stage.",
    )  # fmt: skip
    parser.add_argument("recipe", help="YAML file, or the name of one that ships with the library")
    parser.add_argument(
        "--override", action="append", default=[], metavar="KEY=VALUE", help="set one key of the recipe"
    )
    parser.add_argument("-h", "--help", action=_Help, help="this help, with every key of a recipe")
    args = parser.parse_args(argv)

    from .recipe.recipe_files import load_recipe

    recipe = load_recipe(args.recipe, args.override)

    from .run.stages import run_recipe
    from .run.stopping import EXIT_CODE, Stopped

    try:
        run_recipe(recipe)
    except Stopped:
        print("stopped by SIGTERM; the same command goes on", file=sys.stderr)
        return EXIT_CODE
    print(f"adapters: {', '.join(str(Path(recipe.output) / name) for name in recipe.stages)}")
    return 0
