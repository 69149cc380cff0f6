"""Indexes of a large store: build, card, search, add, remove, each kind in a process of its own.

    python scripts/searching/bench_index.py --rows 1000000 --dimension 1024

The vectors are random, in clusters: centres drawn from a normal distribution, as many as a hundredth of the rows, and
rows around them. They are kept in float16. The peak of memory leaves out what is mapped of the store and the index,
which the system may drop at any time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mllm_embed.encode.memory import PeakMemory
from mllm_embed.errors import ConfigError, user_errors
from mllm_embed.files import write_json
from mllm_embed.index.build import build_index, probe
from mllm_embed.index.faiss_index import Index
from mllm_embed.index.kinds import kind_of
from mllm_embed.store.files import MANIFEST
from mllm_embed.store.vector_store import BLOCK_ROWS, VectorStore
from mllm_embed.vectors.unit import unit

KINDS = ("ivf-disk", "sq8", "rabitq4", "rabitq", "binary")
SPREAD = 0.7  # of the rows around their centre, a centre's numbers having a deviation of 1
CHANGED = 1000


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="default 1,000,000")
    parser.add_argument("--dimension", type=int, default=1024, help="default 1,024")
    parser.add_argument("--kinds", nargs="+", default=KINDS, metavar="KIND", help=f"default: {' '.join(KINDS)}")
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-index"), help="where the stores are kept")
    parser.add_argument("--output", type=Path, default=Path("runs/index.json"))
    args = parser.parse_args()
    if min(args.rows, args.dimension) < 1:
        raise ConfigError("--rows and --dimension must be at least 1")
    for kind in args.kinds:
        kind_of(kind)
    folder = args.cache / f"{args.rows}x{args.dimension}"
    began = time.perf_counter()
    make_store(folder, args.rows, args.dimension)
    sys.stdout.write(f"store: {args.rows:,} x {args.dimension}, {time.perf_counter() - began:.0f} s\n")
    found = {}
    for kind in args.kinds:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            found[kind] = alone.submit(watched, folder, kind).result()
        sys.stdout.write(f"{kind}: {found[kind]}\n")
        sys.stdout.flush()
        write_json(args.output, {"rows": args.rows, "dimension": args.dimension, "kinds": found})
    sys.stdout.write(f"\n{table(found)}\n")
    return 0


def vectors(numbers: np.ndarray, centres: int, dimension: int, seed: int) -> np.ndarray:
    """Return [n, D] float32: a row around one of the centres for each number."""
    home = np.random.default_rng(0).standard_normal((centres, dimension), np.float32)
    rng = np.random.default_rng([seed, int(numbers[0])])
    return unit(home[numbers % centres] + SPREAD * rng.standard_normal((len(numbers), dimension), np.float32))


def make_store(folder: Path, rows: int, dimension: int) -> None:
    """Make the store of the benchmark where it is not there yet."""
    if (folder / MANIFEST).is_file() and len(VectorStore(folder).living) == rows:
        return
    store = VectorStore.create(folder, dimension, dtype="float16", provenance={"name": "random clusters"})
    for at in tqdm(range(0, rows, BLOCK_ROWS), desc="writing vectors", mininterval=1):
        numbers = np.arange(at, min(at + BLOCK_ROWS, rows))
        made = vectors(numbers, max(rows // 100, 1), dimension, 1)
        store.add([f"{number:09d}" for number in numbers], made, [f"photos/{number:09d}.jpg" for number in numbers])


def watched(folder: Path, kind: str) -> dict[str, Any]:
    """Return what `measured` gives, and the most memory that it took."""
    with PeakMemory() as peak:
        found = measured(folder, kind)
    return found | {"peak": peak.bytes}


def measured(folder: Path, kind: str) -> dict[str, Any]:
    """Build an index and use it; return what each took, in seconds. What is added is removed in the end."""
    store = VectorStore.open(folder)
    spent: dict[str, Any] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        spent[name] = time.perf_counter() - began
        return result

    known = timed("exact answers", lambda: probe(store))
    index: Index = timed(
        "build", lambda: build_index(store, folder.with_name(f"{folder.name}-{kind}"), kind, known=known)
    )
    index = timed("open", lambda: Index.open(index.folder))
    queries = known.queries
    timed("ids", lambda: store.position(store.ids[0]))
    timed("search", lambda: index.nearest(queries, 10))
    new = [f"new {len(store) + number}" for number in range(CHANGED)]
    made = vectors(np.arange(CHANGED), 50, store.dimension, 2)
    timed("add", lambda: index.add(new, made))
    lost = sum(answer[0][0] != name for answer, name in zip(index.nearest(made[:64], 1), new, strict=False))
    timed("update", index.update)
    lost += sum(answer[0][0] != name for answer, name in zip(index.nearest(made[:64], 1), new, strict=False))
    timed("remove", lambda: index.remove(new))
    back = sum(name in new for answer in index.nearest(made[:64], 10) for name, _ in answer)
    return {**index.card, **spent, "lost": lost, "back": back}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the figures of all kinds as a Markdown table."""
    lines = [
        "| kind | recall@10 | of float32 | one query | in a batch | build | add | update | remove | peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, got in found.items():
        lines.append(
            f"| {kind} | {got['recall']:.4f} | 1/{1 / got['ratio']:.1f} | {got['one_ms']:.1f} ms | "
            f"{got['batch_ms']:.2f} ms | {got['build']:.0f} s | {got['add']:.2f} s | {got['update']:.1f} s | "
            f"{got['remove']:.2f} s | {got['peak'] / 2**30:.1f} GiB |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
