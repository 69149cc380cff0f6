"""`mllm-embed presets`: the published embedders and re-rankers that are known, and how each is asked."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..presets.preset import Preset

_HELP = """\
what it does
  Lists the published embedders that can be used by name: how they load, where their prompts are from, in what vectors
  differ from those of the authors' code, licence; then re-rankers (`search --reranker`), and those that cannot be
  loaded, with the reason. With a name it
  prints all that is known of one: its models, prompts and settings, what is uncertain, sources.

use
  The preset of a hub id is found by itself. A folder of the same model, or a fine-tune of it, needs --preset NAME.

examples
  mllm-embed presets
  mllm-embed presets gme
  mllm-embed presets --markdown > presets.md
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    presets = commands.add_parser(
        "presets",
        help="list the published embedders that are known by name",
        description="List the published embedders that are known by name.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    presets.add_argument("name", nargs="?", metavar="NAME", help="of one, or a YAML or JSON file: print all of it")
    presets.add_argument("--markdown", action="store_true", help="the list as tables in Markdown")
    presets.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..presets import catalog, unsupported
    from ..presets.listing import described, described_reranker, listed, tables
    from ..presets.rerankers.catalog import reranker_names, reranker_preset

    if arguments.name in reranker_names():
        lines = described_reranker(reranker_preset(arguments.name))
    elif arguments.name is not None:
        lines = described(catalog.preset(arguments.name))
    else:
        found: list[Preset] = [catalog.preset(name) for name in catalog.names()]
        rerankers = [reranker_preset(name).about for name in reranker_names()]
        lines = tables(found) if arguments.markdown else listed(found)
        lines += ["", *(tables(rerankers, "re-ranker") if arguments.markdown else listed(rerankers))]
        lines += unsupported.table() if arguments.markdown else unsupported.listed()
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
