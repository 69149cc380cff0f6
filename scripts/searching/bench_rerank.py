"""What it saves to compute a query's part of a re-ranker's prompt once for all of its candidates.

    python scripts/searching/bench_rerank.py --model scripts/assets/base
    python scripts/searching/bench_rerank.py --model M --adapter R --depth 10 --side 448 --repeat 5

Queries of a picture with an instruction, candidates of a picture each, all noise of one size; whole prompts and shared
ones are taken in turns in one process, after a round that is not counted. A row a depth: milliseconds a query of
either, the median of the ratios in each round with its smallest and largest, and the largest difference of a score.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from PIL import Image

from mllm_embed import Document, Query, Reranker

Listed = tuple[Query, list[Document]]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="base, or a whole re-ranker")
    parser.add_argument("--adapter", help="a re-ranker's adapter")
    parser.add_argument("--preset", help="of a published re-ranker")
    parser.add_argument("--dtype", default="auto", help="what it computes in (default: as stored)")
    parser.add_argument("--device", help="default: the GPU where there is one")
    parser.add_argument(
        "--depth", type=int, nargs="+", default=[5, 10, 50], help="candidates a query (default 5 10 50)"
    )
    parser.add_argument("--queries", type=int, default=4, help="a round (default 4)")
    parser.add_argument("--side", type=int, default=96, help="of a picture in pixels (default 96)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds that are counted (default 3)")
    args = parser.parse_args()

    reranker = Reranker.from_pretrained(
        args.model, adapter=args.adapter, preset=args.preset, dtype=args.dtype, device=args.device
    )
    print("| depth | whole, ms a query | shared, ms a query | whole / shared | scores differ by |")
    print("| --- | --- | --- | --- | --- |")
    for depth in args.depth:
        print(_row(reranker, _lists(args.queries, depth, args.side), depth, args.repeat), flush=True)


def _lists(queries: int, depth: int, side: int) -> list[Listed]:
    """Return queries with their candidates."""
    noise = np.random.default_rng(0)

    def picture() -> Image.Image:
        return Image.fromarray(noise.integers(0, 256, (side, side, 3), np.uint8))

    return [
        (Query(picture(), f"make number {at} blue and put it on snow"), [Document(picture()) for _ in range(depth)])
        for at in range(queries)
    ]


def _row(reranker: Reranker, lists: list[Listed], depth: int, repeat: int) -> str:
    """Return a row of the table."""
    times: dict[bool, list[float]] = {False: [], True: []}
    scores: dict[bool, np.ndarray] = {}
    for round_ in range(repeat + 1):
        for share in (False, True) if round_ % 2 else (True, False):
            started = time.perf_counter()
            found = reranker.scores_of(lists, share=share, show_progress=False)
            if round_:
                times[share].append((time.perf_counter() - started) / len(lists) * 1000)
            scores[share] = np.array(found)
    ratios = [whole / shared for whole, shared in zip(times[False], times[True], strict=True)]
    whole, shared = (statistics.median(times[share]) for share in (False, True))
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {depth} | {whole:.1f} | {shared:.1f} | {ratio} | {np.abs(scores[False] - scores[True]).max():.1e} |"


if __name__ == "__main__":
    main()
