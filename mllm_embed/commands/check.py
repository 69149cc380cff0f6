"""`mllm-embed check`: whether a store or an index is what was written."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from .ids import local_path

_HELP = """\
what it does
  Reads all of a store, or of an index and its store, and compares it with the checksums that were written with it.
  Prints what it found; the exit code is 2 where something is damaged. Other commands compare what is small when they
  open a store, and vectors when they first read them.

examples
  mllm-embed check runs/photos
  mllm-embed check runs/photos.index
"""


_NAMED = 3  # shards that a sentence names


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    check = commands.add_parser(
        "check",
        help="compare a store or an index with its checksums",
        description="Compare a store or an index with its checksums.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("place", type=local_path, metavar="PLACE", help="store or index")
    check.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..index.files import SETTINGS_FILE
    from ..store.files import MANIFEST

    place = arguments.place
    if (place / MANIFEST).is_file():
        _check_store(place)
    elif (place / SETTINGS_FILE).is_file():
        _check_index(place)
    else:
        raise ConfigError(f"{place} is no store and no index: give the folder of one")
    return 0


def _check_store(place: Path) -> None:
    """Say what a store was found to be. Raises DataError where it is damaged, after a line for each damage."""
    from ..store.check import check_store
    from ..store.files import CURE
    from ..store.plans import LOOSE_CURE

    found = check_store(place)
    for damage in found.damages:
        sys.stdout.write(f"damaged: {damage}\n")
    if found.damages:
        raise DataError(f"{place} is damaged in {len(found.damages):,} places: {CURE}")
    removed = f", {found.removed:,} of which are removed" if found.removed else ""
    sys.stdout.write(f"{place}: {found.rows:,} rows in {found.shards:,} shards{removed}, all as they were written\n")
    if not found.checksums:
        sys.stdout.write(
            "an earlier version wrote it, without checksums of ids and removed rows: the next change adds them\n"
        )
    if found.planned:
        sys.stdout.write(f"{found.planned:,} rows are being embedded; should that be stopped, give its command again\n")
    if found.loose:
        shards = ", ".join(found.loose[:_NAMED])
        raise DataError(
            f"{place} has {len(found.loose):,} shards that its manifest does not name ({shards}): {LOOSE_CURE}"
        )


def _check_index(place: Path) -> None:
    """Say what an index and its store were found to be. Raises DataError where one is damaged."""
    from ..index.faiss_index import Index

    index = Index.open(place)
    _check_store(index.store.folder)
    sys.stdout.write(f"{place}: {len(index.engine):,} rows, all as they were written\n")
