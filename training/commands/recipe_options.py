"""The arguments by which every command names a recipe, and the recipe that they name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..recipe.config import Recipe
    from ..recipe.reranker.recipe import RerankRecipe


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Add RECIPE and --override."""
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file, or the name of one that ships with the library")
    parser.add_argument(
        "--override", action="append", default=[], metavar="KEY=VALUE", help="set one key of the recipe"
    )


def read_recipe(arguments: argparse.Namespace) -> Recipe | RerankRecipe:
    """Return the recipe that the arguments name, of an embedder or a re-ranker. Raises ConfigError for one that cannot
    be read or says too much."""
    from ..recipe.recipe_files import load_any

    return load_any(arguments.recipe, arguments.override)


class HelpWithKeys(argparse.Action):
    """--help with every key of a recipe below, which is only worth an import when somebody asks."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Print the help and exit."""
        from ..recipe.recipe_files import describe_keys

        keys = describe_keys().replace("%", "%%")  # argparse fills %(prog)s in an epilog
        parser.epilog = f"{parser.epilog}\nkeys of a recipe:\n{keys}"
        parser.print_help()
        parser.exit()


def add_help_with_keys(parser: argparse.ArgumentParser) -> None:
    """Add --help, to a parser that was made with `add_help=False`."""
    parser.add_argument(
        "-h", "--help", action=HelpWithKeys, nargs=0, help="show this help, with every key of a recipe, and exit"
    )
