"""`mllm-embed upload`: a store into a Qdrant collection or a PostgreSQL table."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .ids import local_path

_HELP = """\
what it does
  Makes a Qdrant collection or a PostgreSQL table (with pgvector) hold what a store holds: for those whose vectors
  outgrow one machine, or who have such a server already. Interrupted, it goes on where it was: give the same command
  again. Given again when the store has changed, it sends what is new and removes what is gone. `mllm-embed search
  --gallery PLACE` then asks the server.

places
  qdrant:URL/COLLECTION       QDRANT_API_KEY is the key of the server, where it wants one
  qdrant:FOLDER/COLLECTION    the Qdrant client's own storage, to try it without a server
  postgresql://USER@HOST:PORT/DATABASE#TABLE
                              or #SCHEMA.TABLE. What stands before the # is as libpq reads it (?sslmode=require). The
                              password comes from PGPASSWORD or ~/.pgpass, or stands behind the user (USER:PASSWORD@),
                              where other users of the machine may see it. The database needs the extension "vector",
                              which is made where the user may. A search compares the query with all rows, exactly,
                              unless --index was given once

examples
  mllm-embed upload runs/photos qdrant:http://localhost:6333/photos
  mllm-embed upload runs/photos postgresql://shop@localhost/shop#photos
  mllm-embed search --gallery postgresql://shop@localhost/shop#photos --model runs/merged --instruction "a red shoe"
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    upload = commands.add_parser(
        "upload",
        help="send a store to a Qdrant or PostgreSQL server",
        description="Send a store to a Qdrant or PostgreSQL server.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    upload.add_argument("store", type=local_path, metavar="STORE", help="what `mllm-embed encode` wrote")
    upload.add_argument("place", metavar="PLACE", help="of a collection or table, see below")
    upload.add_argument(
        "--index", action="store_true", help="PostgreSQL: make an HNSW index, for faster and approximate searches"
    )
    upload.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..search.places import shown_place, upload
    from ..store.vector_store import VectorStore

    gallery, sent = upload(VectorStore.open(arguments.store), arguments.place, index=arguments.index)
    sys.stdout.write(f"sent {sent:,} rows; {shown_place(arguments.place)} has {len(gallery):,}\n")
    return 0
