"""What lexical vectors find, alone and beside dense ones, and what a search by them takes.

    python scripts/searching/bench_lexical.py runs/demo/data/seen runs/demo/data/unseen \\
        --model scripts/assets/base --adapter runs/demo-lexical/instructions

Of each folder: R@1 of dense vectors alone, of lexical ones alone, and of dense cosine + W x lexical cosine; the words
of a document and of a query; and the median time of ranking one query that is encoded already, in turns in one
process: all dense vectors, the inverted index, and both by the threshold algorithm of `search --lexical`. A model that
was not trained for it gives what its base's head says, with --lexical-words N.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from timeit import timeit
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mllm_embed.commands.model_options import add_model_options, load_embedder
from mllm_embed.errors import user_errors

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from mllm_embed import MLLMEmbedder
    from mllm_embed.eval.scoring.suite import Task

WEIGHTS = (0.25, 0.5, 1.0, 2.0)
ALONE = 64  # queries that are timed
K = 10


class Sides(NamedTuple):
    """The vectors of a task: dense [N, D] and words [N, V] of gallery and queries."""

    gallery: np.ndarray
    words: csr_array
    queries: np.ndarray
    asked: csr_array


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders with a benchmark.json")
    add_model_options(parser, lexical=True)
    args = parser.parse_args()

    from mllm_embed.eval.benchmarks import open_suite
    from mllm_embed.eval.reports.tables import ReportTable, markdown

    embedder = load_embedder(args)
    head = ["folder", "dense", "lexical", *(f"both, W {weight:g}" for weight in WEIGHTS)]
    head += ["words a document", "a query", "ms dense", "ms lexical", "ms both"]
    rows = []
    for folder in args.folders:
        task = open_suite("folder", folder).tasks[0]
        found = _encoded(embedder, task)
        dense = found.queries @ found.gallery.T
        lexical = (found.asked @ found.words.T).toarray()
        ways = [dense, lexical, *(dense + weight * lexical for weight in WEIGHTS)]
        recalls = [f"{100 * _recall(task, scores):.1f}" for scores in ways]
        counts = [f"{side.nnz / side.shape[0]:.0f}" for side in (found.words, found.asked)]
        rows.append([folder.name, *recalls, *counts, *_times(task, found)])
    sys.stdout.write(markdown([ReportTable(head, rows)]) + "\n")
    return 0


def _encoded(embedder: MLLMEmbedder, task: Task) -> Sides:
    gallery, words = embedder.encode_both(list(task.gallery), show_progress=False)
    queries, asked = embedder.encode_both([items[0] for items in task.queries], show_progress=False)
    return Sides(gallery, words, queries, asked)


def _recall(task: Task, scores: np.ndarray) -> float:
    """Return the share of queries whose best row, of those that take part, is right."""
    view, scores = task.views[0], scores.copy()
    for row, never in enumerate(view.exclude or []):
        scores[row, list(never)] = -np.inf
    best = scores.argmax(axis=1)
    return float(np.mean([best[row] in view.targets[row] for row in range(len(best))]))


def _times(task: Task, found: Sides) -> list[str]:
    """Return the median milliseconds of a query by dense vectors, by words, and by both."""
    from mllm_embed.search.lexical import FusedGallery, LexicalRows
    from mllm_embed.store.gallery import MemoryGallery

    memory = MemoryGallery(task.gallery_ids, found.gallery, [None] * len(found.gallery))
    rows = LexicalRows(task.gallery_ids, found.words, memory)
    spent: dict[str, list[float]] = {"dense": [], "lexical": [], "both": []}
    for at in range(min(ALONE, len(found.queries))):
        query, asked = found.queries[[at]], found.asked[[at]]
        both = FusedGallery(memory, rows, asked, 1.0)
        spent["dense"].append(timeit(lambda q=query: memory.nearest(q, K), number=1))
        spent["lexical"].append(timeit(lambda a=asked: np.argsort(-rows.scores(a), kind="stable")[:K], number=1))
        spent["both"].append(timeit(lambda q=query, b=both: b.nearest(q, K), number=1))
    return [f"{1000 * statistics.median(times):.2f}" for times in spent.values()]


if __name__ == "__main__":
    raise SystemExit(main())
