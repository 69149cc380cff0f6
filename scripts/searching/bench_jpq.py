"""What tuning codes and queries together (JPQ) gives back of what product codes lose, without any re-ranking.

    python scripts/make_scenes.py --output runs/demo/data
    python scripts/make_scenes.py --output runs/reranker/data --triplets 16000 --edits 16
    mllm-embed-train run demo-jpq
    mllm-embed-train run demo-jpq --override output=runs/demo-jpq-16 --override stages.queries.jpq.bytes=16
    python scripts/searching/bench_jpq.py runs/demo-jpq/queries runs/demo-jpq-16/queries

The galleries are others than the training's: their pictures are coded by the centroids as they were learned, of the
pictures of the training, and scored by the tuned ones, as an index does. Beside it stand the same codes before tuning
with the adapter that made the gallery, codes that the tuned centroids choose, and codes learned of the gallery itself.
R@1 is the share of queries whose first answer is right; recall@10 the share of the ten that an exact search by that
adapter finds first which are among the first ten. Both leave out the picture that is asked about.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.data.folder import DataFolder, FolderBenchmark
from mllm_embed.errors import DataError, user_errors
from mllm_embed.index.jpq.quantizer import QUANTIZER_FILE, TunedQuantizer

NEAREST = 10
Vectors = np.ndarray


@dataclass(frozen=True)
class Case:
    """A benchmark as the adapter that made its gallery sees it: vectors [N, D] and [Q, D] float32."""

    benchmark: FolderBenchmark
    gallery: Vectors
    queries: Vectors

    @classmethod
    def of(cls, folder: Path, embedder: MLLMEmbedder) -> Case:
        """Encode the benchmark of a data folder. Raise DataError for a folder without one."""
        benchmark = DataFolder.open(folder).benchmark
        if benchmark is None:
            raise DataError(f"{folder} has no benchmark.json: give the folders of scripts/make_scenes.py")
        documents = [Document(image=item.image, text=item.text) for item in benchmark.gallery]
        return cls(benchmark, embedder.encode(documents), embedder.encode(asked(benchmark)))

    def figures(self, queries: Vectors, rows: Vectors) -> str:
        """Return R@1 and recall@10 of queries [Q, D] by scores of rows [N, D]."""
        found, exact = self._first(queries @ rows.T), self._first(self.queries @ self.gallery.T)
        ids = [item.id for item in self.benchmark.gallery]
        hits = [ids[best[0]] in query.targets for best, query in zip(found, self.benchmark.queries, strict=True)]
        shared = [np.isin(right, best).mean() for right, best in zip(exact, found, strict=True)]
        return f"{100 * np.mean(hits):.1f} | {100 * np.mean(shared):.1f}"

    def _first(self, scores: Vectors) -> Vectors:
        """Return the first ten [Q, 10] by scores [Q, N], equal ones in order of the rows."""
        place = {item.id: number for number, item in enumerate(self.benchmark.gallery)}
        for row, query in zip(scores, self.benchmark.queries, strict=True):
            row[[place[name] for name in query.exclude]] = -np.inf
        return np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]


def asked(benchmark: FolderBenchmark) -> list[Query]:
    """Return the queries of a benchmark as a model is asked them."""
    return [Query(query.image, query.instruction, avoid=query.avoid) for query in benchmark.queries]


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tuned", nargs="+", type=Path, help="adapters of runs with a stage that has jpq")
    parser.add_argument("--model", default="scripts/assets/base", help="default: %(default)s")
    parser.add_argument(
        "--adapter", default="scripts/assets/adapters/instructions", help="that made the gallery (default: %(default)s)"
    )
    parser.add_argument(
        "--data", nargs="+", type=Path, default=[Path("runs/demo/data/seen"), Path("runs/demo/data/unseen")],
        help="folders with a benchmark.json (default: the demo's seen and unseen)",
    )  # fmt: skip
    args = parser.parse_args()
    embedder = MLLMEmbedder.from_pretrained(args.model, adapter=args.adapter, dtype="float32")
    cases = [Case.of(folder, embedder) for folder in args.data]
    names = [f"R@1 {folder.name} | recall@{NEAREST}" for folder in args.data]
    sys.stdout.write(f"| ranked by | bytes | {' | '.join(names)} |\n| --- | ---{' | --- | ---' * len(names)} |\n")
    full = 4 * cases[0].gallery.shape[1]
    _tell("the vectors", full, [case.figures(case.queries, case.gallery) for case in cases])
    for folder in args.tuned:
        quantizer = TunedQuantizer.read(folder / QUANTIZER_FILE, "give adapters of runs with a stage that has jpq")
        tuned = MLLMEmbedder.from_pretrained(args.model, adapter=folder, dtype="float32")
        for name, size, figures in rows_of(quantizer, tuned, cases):
            _tell(name, size or full, figures)
    return 0


def rows_of(
    quantizer: TunedQuantizer, tuned: MLLMEmbedder, cases: Sequence[Case]
) -> Iterator[tuple[str, int | None, list[str]]]:
    """Yield what ranks, the bytes of a row (None for those of its vector), and the figures of each case."""
    queries = [tuned.encode(asked(case.benchmark)) for case in cases]
    size, count = quantizer.bytes, range(len(cases))
    own = [TunedQuantizer.learn(case.gallery, size) for case in cases]
    yield "codes learned of the gallery itself", size, [
        case.figures(case.queries, one.decoded(one.codes(case.gallery))) for case, one in zip(cases, own, strict=True)
    ]  # fmt: skip
    plain, moved = replace(quantizer, scored=quantizer.coded), replace(quantizer, coded=quantizer.scored)
    ways = (
        ("codes before tuning", plain, [case.queries for case in cases]),
        ("codes tuned with queries", quantizer, queries),
        ("the same, coded by the tuned centroids", moved, queries),
    )
    for name, one, asks in ways:
        rows = [one.decoded(one.codes(case.gallery)) for case in cases]
        yield name, size, [cases[at].figures(asks[at], rows[at]) for at in count]
    yield "the vectors, by the tuned queries", None, [cases[at].figures(queries[at], cases[at].gallery) for at in count]


def _tell(name: str, size: int, figures: Sequence[str]) -> None:
    sys.stdout.write(f"| {name} | {size:,} | {' | '.join(figures)} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
