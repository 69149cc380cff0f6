"""`mllm-embed export`: a store as files that others read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..store.export import KINDS
from .ids import local_path

_HELP = """\
what it does
  Writes what a store holds, without what was removed, in the order of its rows: id, vector (float32 of unit length,
  however the store keeps it), source (where the picture lies), and the columns that `encode --keep` kept. What made the
  vectors stands in the metadata of the files, under mllm_embed. A column that is itself called id, vector or source is
  written as kept_NAME.

kinds
  parquet    one file; the vector is a list of fixed size
  lance      a Lance dataset (pip install "mllm_embed[lance]")
  npy        a folder: vectors.npy, ids.json (a list, one a row), columns.parquet, provenance.json

examples
  mllm-embed export runs/photos --to parquet --output photos.parquet
  mllm-embed export runs/photos --to npy --output photos

`mllm-embed-eval score --vectors` reads stores, and what npy writes.
"""


def register(commands: Any) -> None:
    """Add the command to those of a parser."""
    export = commands.add_parser(
        "export",
        help="write a store as parquet, Lance or npy",
        description="Write a store as parquet, Lance or npy.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("store", type=local_path, metavar="STORE", help="what `mllm-embed encode` wrote")
    export.add_argument("--to", required=True, choices=KINDS, help="the kind of file, see below")
    export.add_argument("--output", required=True, type=Path, metavar="PATH", help="file or folder, not there yet")
    export.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..store.export import export
    from ..store.vector_store import VectorStore

    rows = export(VectorStore.open(arguments.store), arguments.to, arguments.output)
    sys.stdout.write(f"wrote {rows:,} rows to {arguments.output}\n")
    return 0
