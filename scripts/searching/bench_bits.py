"""Codes of few bits on real vectors, by themselves: what share of the nearest they find, at how many bytes.

    mllm-embed encode runs/demo/data/train/images --output runs/bits/store --model M --adapter A
    python scripts/searching/bench_bits.py runs/bits/store --queries runs/bits/queries

Each kind is built of the store and asked as it would be, but its candidates are not scored again by the full vectors,
so that it shows what the codes know. Queries are those of a store, or else 512 of the rows, held out. *Of 100* is the
share of the ten nearest among the first hundred, which an index that scores again can still find.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from mllm_embed.errors import user_errors
from mllm_embed.index.engines import new_engine
from mllm_embed.index.kinds import Kind, kind_of
from mllm_embed.store.vector_store import VectorStore

MORE_BITS = {"bebr, 1/8": replace(kind_of("bebr"), size=1 / 8)}  # no kind of its own: beside RaBitQ's 4 bits
KINDS = ("binary", "learned-signs", "bebr", "rabitq", "pq", *MORE_BITS, "rabitq4", "sq8")
HELD_OUT, NEAREST, DEEP = 512, 10, 100
Vectors = np.ndarray


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="what `mllm-embed encode` wrote")
    parser.add_argument("--queries", type=Path, help="a store of queries (default: 512 of the rows, held out)")
    parser.add_argument("--kinds", nargs="+", default=KINDS, metavar="KIND", help=f"default: {' '.join(KINDS)}")
    args = parser.parse_args()
    kinds = {name: MORE_BITS.get(name) or kind_of(name) for name in args.kinds}
    queries, rows = _vectors(args.store, args.queries)
    right = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :NEAREST]
    sys.stdout.write(f"{len(queries):,} queries, {len(rows):,} rows of {rows.shape[1]} numbers\n\n")
    sys.stdout.write("| kind | bytes a vector | recall@10 | of 100 | training | a query |\n")
    sys.stdout.write("| --- | --- | --- | --- | --- | --- |\n")
    for name, kind in kinds.items():
        sys.stdout.write(f"| {name} | {_row(kind, queries, rows, right)} |\n")
        sys.stdout.flush()
    return 0


def _vectors(store: Path, queries: Path | None) -> tuple[Vectors, Vectors]:
    """Return queries [Q, D] and rows [N, D] float32."""
    opened = VectorStore.open(store)
    rows = opened.take(np.flatnonzero(opened.alive))
    if queries is not None:
        asked = VectorStore.open(queries)
        return asked.take(np.flatnonzero(asked.alive)), rows
    order = np.random.default_rng(0).permutation(len(rows))
    held_out = min(HELD_OUT, len(rows) // 10)
    return rows[order[:held_out]], rows[order[held_out:]]


def _row(kind: Kind, queries: Vectors, rows: Vectors, right: Vectors) -> str:
    """Build an index of a kind and return its figures. The bytes are those of a row, without tables and row numbers."""
    with tempfile.TemporaryDirectory() as folder:
        engine = new_engine(kind, len(rows), rows.shape[1], Path(folder))
        began = time.perf_counter()
        engine.train(rows)
        trained = time.perf_counter() - began
        engine.add(rows)
        most = engine.most
        began = time.perf_counter()
        found = engine.search(queries, DEEP, most)[1]
        spent = (time.perf_counter() - began) / len(queries)
        size = engine.code_bytes
    shares = [
        np.mean([np.isin(one, other).mean() for one, other in zip(right, found[:, :depth], strict=True)])
        for depth in (NEAREST, DEEP)
    ]
    return f"{size} | {shares[0]:.3f} | {shares[1]:.3f} | {trained:.0f} s | {spent * 1e3:.2f} ms"


if __name__ == "__main__":
    sys.exit(main())
