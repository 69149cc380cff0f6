"""How long exact ranking takes beside a bare `faiss.knn` on the same arrays, and how much memory it adds.

    python scripts/bench_ranking.py                     # CIRCO's test set at 3,072 dimensions
    python scripts/bench_ranking.py --gallery 20000 --repeat 5

The floor is one product of queries and gallery, 2 * Q * N * D floating-point operations, which faiss.knn computes; what
`top_k` adds is a look at every row (NaN, length) and the exact scores of the candidates. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable

import faiss
import numpy as np

from mllm_embed.vectors.ranking import top_k


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=800, help="Q (default: CIRCO test)")
    parser.add_argument("--gallery", type=int, default=123_403, help="N (default: CIRCO)")
    parser.add_argument("--dimensions", type=int, default=3072, help="D (default: Phi-3.5-mini's)")
    parser.add_argument("--k", type=int, default=50, help="answers a query (default: CIRCO's)")
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many, taken in turns")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    queries, gallery = (_unit(rng, count, args.dimensions) for count in (args.queries, args.gallery))
    before = _peak()
    ways: dict[str, Callable[[], object]] = {
        "faiss.knn": lambda: faiss.knn(queries, gallery, args.k, metric=faiss.METRIC_INNER_PRODUCT),
        "top_k": lambda: top_k(queries, gallery, args.k),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks = {}
    for _ in range(args.repeat):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
            peaks.setdefault(name, _peak())
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
