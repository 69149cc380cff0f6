"""`mllm-embed-train show RECIPE`: a recipe with its bases, overrides and defaults, as it will be trained."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .recipe_options import add_recipe_options, read_recipe

_HELP = """\
examples:
  %(prog)s qwen2-vl-7b
  %(prog)s my.yaml --override lora.rank=32 > whole.yaml

What it prints is a recipe itself, which `mllm-embed-train run` trains alike. Keys without a value are left out.
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    show = commands.add_parser(
        "show",
        help="print a recipe whole: laid over its bases, with overrides and defaults",
        description="Print the whole recipe that will be trained: laid over its bases, with overrides and defaults.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_recipe_options(show)
    show.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    recipe = read_recipe(arguments)

    from ..recipe.layers import chain_of, find_recipe
    from ..recipe.recipe_files import as_text

    files = [file.name for file, _ in chain_of(find_recipe(Path(arguments.recipe)))]
    over = "".join(f", with {override}" for override in arguments.override)
    sys.stdout.write(f"# {' over '.join(files)}{over}\n{as_text(recipe)}")
    return 0
