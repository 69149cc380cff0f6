"""What fixed dimensional encodings (MUVERA) find of MaxSim's own ranking, by their size, and how long both take.

    python scripts/searching/bench_fde.py
    python scripts/searching/bench_fde.py --documents 20000 --queries 100

Sets are synthetic: a document's vectors lie around some of 200 topics, a query's around vectors of one document. A
row an encoding: its numbers, the share of MaxSim's first ten that are among the first ten by encodings alone, and among
the first hundred, which MaxSim would rank again; milliseconds a query, to encode it and compare it with all documents,
and how many times as long MaxSim over all documents takes. The first row is the mean of each set, one vector.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from mllm_embed.vectors.fde import FDE
from mllm_embed.vectors.maxsim import maxsim
from mllm_embed.vectors.multi import MultiVectors
from mllm_embed.vectors.unit import unit

TOPICS, NEAREST, DEEP = 200, 10, 100
FORMS = ((3, 10, 16, None), (4, 20, 16, None), (5, 20, 16, None), (5, 20, 16, 2560), (6, 20, 16, None))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=2000, help="default 2,000")
    parser.add_argument("--queries", type=int, default=50, help="default 50")
    parser.add_argument("--dimension", type=int, default=128, help="numbers of a vector (default 128)")
    parser.add_argument("--vectors", type=int, default=64, help="of a document, on average (default 64)")
    args = parser.parse_args()
    documents, queries = _sets(args.documents, args.queries, args.dimension, args.vectors)
    began = time.perf_counter()
    right = np.argsort(-maxsim(queries, documents), axis=1, kind="stable")[:, :NEAREST]
    brute = (time.perf_counter() - began) / args.queries
    print(f"MaxSim over all documents: {brute * 1e3:.1f} ms a query\n")
    print("| encoding | numbers | recall@10 | of 100 | a query | MaxSim over all / this | documents encoded |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    mean = FDE(args.dimension, planes=0, repetitions=1)
    print(_row("mean of the set", mean, documents, queries, right, brute), flush=True)
    for planes, repetitions, projected, final in FORMS:
        form = FDE(args.dimension, planes, repetitions, projected, final)
        name = f"{planes} planes, {repetitions} times, projected to {projected}" + (
            f", {final} in all" if final else ""
        )
        print(_row(name, form, documents, queries, right, brute), flush=True)


def _sets(documents: int, queries: int, dimension: int, vectors: int) -> tuple[MultiVectors, MultiVectors]:
    """Return documents and queries."""
    rng = np.random.default_rng(0)
    topics = unit(rng.standard_normal((TOPICS, dimension)).astype(np.float32))

    def around(centres: np.ndarray, length: float) -> np.ndarray:
        return unit(centres + length * unit(rng.standard_normal(centres.shape).astype(np.float32)))

    counts = rng.integers(vectors // 2, vectors * 3 // 2 + 1, documents)
    found = [around(topics[rng.choice(rng.integers(TOPICS, size=12), count)], 0.8) for count in counts]
    asked = [around(found[rng.integers(documents)][:16], 0.8) for _ in range(queries)]
    return MultiVectors.of(found, dimension), MultiVectors.of(asked, dimension)


def _row(name: str, form: FDE, documents: MultiVectors, queries: MultiVectors, right: np.ndarray, brute: float) -> str:
    began = time.perf_counter()
    rows = form.documents(documents)
    encoded = time.perf_counter() - began
    began = time.perf_counter()
    found = np.argsort(-(form.queries(queries) @ rows.T), axis=1, kind="stable")
    spent = (time.perf_counter() - began) / len(right)
    shares = [
        np.mean([np.isin(one, other[:depth]).mean() for one, other in zip(right, found, strict=True)])
        for depth in (NEAREST, DEEP)
    ]
    figures = f"{form.width:,} | {shares[0]:.3f} | {shares[1]:.3f} | {spent * 1e3:.1f} ms | {brute / spent:.1f}"
    return f"| {name} | {figures} | {encoded:.1f} s |"


if __name__ == "__main__":
    main()
