"""`mllm-embed upload`: a store into a Qdrant collection."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .ids import local_path

_HELP = """\
what it does
  Makes a Qdrant collection hold what a store holds: for those whose vectors outgrow one machine, or who have a Qdrant
  server already. Interrupted, it goes on where it was: give the same command again. Given again when the store has
  changed, it sends what is new and removes what is gone. `mllm-embed search --gallery qdrant:...` then asks the server.
  QDRANT_API_KEY is the key of the server, where it wants one.

examples
  mllm-embed upload runs/photos qdrant:http://localhost:6333/photos
  mllm-embed search --gallery qdrant:http://localhost:6333/photos --model runs/merged --instruction "a red shoe"
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    upload = commands.add_parser(
        "upload",
        help="send a store to a Qdrant server",
        description="Send a store to a Qdrant server.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    upload.add_argument("store", type=local_path, metavar="STORE", help="what `mllm-embed encode` wrote")
    upload.add_argument("collection", metavar="COLLECTION", help="qdrant:URL/NAME, or qdrant:FOLDER/NAME")
    upload.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..search.qdrant import upload
    from ..store.vector_store import VectorStore

    gallery, sent = upload(VectorStore.open(arguments.store), arguments.collection)
    sys.stdout.write(f"sent {sent:,} rows; {arguments.collection} has {len(gallery):,}\n")
    return 0
