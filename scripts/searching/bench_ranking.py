"""How long exact ranking and filtered searches take beside a bare `faiss.knn` on the same arrays.

    python scripts/searching/bench_ranking.py                     # CIRCO's test set at 3,072 dimensions
    python scripts/searching/bench_ranking.py --gallery 20000 --repeat 5
    python scripts/searching/bench_ranking.py --filters --queries 1 --gallery 100000 --dimensions 512 --k 10

The floor is one product of queries and gallery, 2 * Q * N * D floating-point operations, which faiss.knn computes; what
`top_k` adds is a look at every row (NaN, length) and the exact scores of the candidates: one JSON line, with the memory
that it takes. With `--filters`: galleries in memory, in a store and behind an index, which look at their rows once,
with the same ids allowed and excluded, and filters of three columns, as a table of milliseconds of the processor and of
times the plain search; an index beside FAISS' own search.
All are taken in turns in one process, after a round that is not counted; the medians are of the ratios in each round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faiss
import numpy as np

from mllm_embed.data.filters import parse_filter
from mllm_embed.index.build import build_index
from mllm_embed.store.gallery import Gallery, MemoryGallery, StoreGallery
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.vectors.ranking import top_k

_SHARD = 4096  # rows, as `mllm-embed encode` makes shards
_FILTER = {"price": {"<": 40}, "colour": ["red", "blue"], "in_stock": True}
Ways = Mapping[str, Callable[[], object]]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=800, help="Q (default: CIRCO test)")
    parser.add_argument("--gallery", type=int, default=123_403, help="N (default: CIRCO)")
    parser.add_argument("--dimensions", type=int, default=3072, help="D (default: Phi-3.5-mini's)")
    parser.add_argument("--k", type=int, default=50, help="answers a query (default: CIRCO's)")
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many, taken in turns")
    parser.add_argument("--filters", action="store_true", help="galleries with filters, and not `top_k` alone")
    parser.add_argument("--kind", default="ivf", help="of the index of --filters (default ivf)")
    parser.add_argument("--dtype", default="float32", help="of the store of --filters (default float32)")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    queries, gallery = (_unit(rng, count, args.dimensions) for count in (args.queries, args.gallery))
    if args.filters:
        for vectors in (gallery, queries):  # in clusters, without which no index finds anything
            vectors += _unit(np.random.default_rng(1), 1000, args.dimensions)[rng.integers(1000, size=len(vectors))]
            vectors /= np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
        _filters(queries, gallery, args.k, args.repeat, args.kind, args.dtype)
    else:
        _ranking(queries, gallery, args.k, args.repeat)


def _ranking(queries: np.ndarray, gallery: np.ndarray, k: int, repeat: int) -> None:
    before = _peak()
    ways: Ways = {
        "faiss.knn": lambda: faiss.knn(queries, gallery, k, metric=faiss.METRIC_INNER_PRODUCT),
        "top_k": lambda: top_k(queries, gallery, k),
    }
    peaks: dict[str, int] = {}
    seconds = _in_turns(ways, repeat, lambda name: peaks.setdefault(name, _peak()))
    best = {name: min(times) for name, times in seconds.items()}
    row = {
        "seconds": {name: round(value, 3) for name, value in best.items()},
        "ratio": round(best["top_k"] / best["faiss.knn"], 3),
        "GFLOP/s of faiss.knn": round(2 * len(queries) * gallery.size / best["faiss.knn"] / 1e9),
        "gallery MB": round(gallery.nbytes / 1e6),
        "peak MB above the arrays": {name: round((peak - before) / 1e6) for name, peak in peaks.items()},
        "threads": faiss.omp_get_max_threads(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(row))


def _filters(queries: np.ndarray, gallery: np.ndarray, k: int, repeat: int, kind: str, dtype: str) -> None:
    """Print a row for each gallery: bare, plain and filtered."""
    ids = [f"{row:09d}" for row in range(len(gallery))]
    threads = faiss.omp_get_max_threads()
    print(f"{len(gallery):,} x {gallery.shape[1]}, {len(queries)} queries, k = {k}, {threads} threads\n")
    print("| gallery | bare | plain | " + " | ".join(_asks(ids, len(queries))) + " |")
    print("| --- " * (3 + len(_asks(ids, 1))) + "|")
    with TemporaryDirectory(dir=".") as home:
        store = VectorStore.create(Path(home) / "store", gallery.shape[1], dtype=dtype)
        kept = _metadata(len(ids))
        for at in range(0, len(ids), _SHARD):
            part = slice(at, at + _SHARD)
            store.add(ids[part], gallery[part], None, kept[part])
        pictures = [None] * len(ids)
        bare = lambda: faiss.knn(queries, gallery, k, metric=faiss.METRIC_INNER_PRODUCT)  # noqa: E731
        _row("memory", MemoryGallery(ids, gallery, pictures, metadata=kept), bare, queries, k, repeat)
        _row(f"store, {dtype}", StoreGallery(store), bare, queries, k, repeat)
        index = build_index(store, Path(home) / "index", kind, show_progress=False)
        _row(f"index, {kind}", index, lambda: index.engine.search(queries, k, index.setting), queries, k, repeat)


def _metadata(rows: int) -> list[dict[str, Any]]:
    """Return three columns of rows: a number, words of six, and a truth value."""
    chance = random.Random(0)
    colours = ("red", "blue", "green", "black", "white", "orange")
    return [
        {"price": chance.uniform(0, 100), "colour": chance.choice(colours), "in_stock": chance.random() < 0.8}
        for _ in range(rows)
    ]


def _asks(ids: list[str], queries: int) -> dict[str, Callable[[], dict]]:
    """Return what makes the filters that are tried, by what they are called."""
    half, few, prices = ids[::2], ids[:: max(1, len(ids) // 1000)], itertools.count()
    same = parse_filter(_FILTER)
    return {
        "allow 1,000": lambda: {"allow": few},
        "allow a half": lambda: {"allow": half},
        "the same half again": lambda: {"allow": half},
        "exclude 10": lambda: {"exclude": [ids[:10]] * queries},
        "exclude 1,000": lambda: {"exclude": [ids[:1000]] * queries},
        "where": lambda: {"where": parse_filter(_FILTER | {"price": {"<": 40 + next(prices) / 1e6}})},
        "the same where again": lambda: {"where": same},
    }


def _row(name: str, gallery: Gallery, bare: Callable[[], object], queries: np.ndarray, k: int, repeat: int) -> None:
    asks = {"plain": dict} | _asks(list(getattr(gallery, "store", gallery).ids), len(queries))
    ways = {"bare": bare} | {ask: lambda made=made: gallery.nearest(queries, k, **made()) for ask, made in asks.items()}
    _in_turns(ways, 1)
    # of the processor, since others may use the machine: for one thread
    seconds = _in_turns(ways, repeat, clock=time.process_time)
    cells = [f"{1e3 * statistics.median(seconds['bare']):.2f} ms"]
    for ask in asks:
        beside = "bare" if ask == "plain" else "plain"
        ratio = statistics.median(a / b for a, b in zip(seconds[ask], seconds[beside], strict=True))
        cells.append(f"{1e3 * statistics.median(seconds[ask]):.2f} ms, {ratio:.2f} x")
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _in_turns(
    ways: Ways,
    repeat: int,
    seen: Callable[[str], object] = lambda name: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each way in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            started = clock()
            way()
            seconds[name].append(clock() - started)
            seen(name)
    return seconds


def _unit(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    vectors = rng.standard_normal((count, width), dtype=np.float32)
    # not np.linalg.norm, whose copy would raise the peak above which the ways are measured
    vectors /= np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return vectors


def _peak() -> int:
    """Return the bytes of the process's largest resident set so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
