"""`mllm-embed remove`: pictures out of a store."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .ids import read_ids

_HELP = """\
what it does
  Takes rows out of a store, index, Qdrant collection or PostgreSQL table: they are never found again. Their files stay;
  where those are still part of a source, `mllm-embed encode` of that source brings them back. To add, encode into the
  same store.

examples
  mllm-embed remove runs/photos 1234.jpg summer/5678.jpg
  mllm-embed remove runs/photos --ids sold.txt
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    remove = commands.add_parser(
        "remove",
        help="take pictures out of a store",
        description="Take pictures out of a store.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    remove.add_argument("gallery", metavar="STORE", help="store, index, Qdrant collection, or PostgreSQL table")
    remove.add_argument("names", nargs="*", metavar="ID", help="what to remove")
    remove.add_argument("--ids", type=Path, metavar="FILE", help="a file with an id a line")
    remove.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..search.places import shown_place, stored_gallery

    names = [*arguments.names, *(read_ids(arguments.ids) if arguments.ids else [])]
    if not names:
        raise ConfigError("give ids to remove, or a file of them with --ids")
    gallery, shown = stored_gallery(arguments.gallery), shown_place(arguments.gallery)
    if gallery is None:
        raise ConfigError(
            f"{shown} is no store, index, Qdrant collection or PostgreSQL table: nothing can be removed from it"
        )
    before = len(gallery)
    gallery.remove(dict.fromkeys(names))
    sys.stdout.write(f"removed {before - len(gallery):,} rows; {shown} has {len(gallery):,}\n")
    return 0
