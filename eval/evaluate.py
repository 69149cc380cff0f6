"""Evaluate an embedder on a benchmark: composed queries beside their two halves alone and their sum.

The three baselines rank the same gallery under the same exclusions, so that nobody mistakes a shortcut for a
result: a benchmark that the picture or the instruction alone can solve says little about composing the two.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mllm_embed.errors import DataError
from mllm_embed.folder import Benchmark
from mllm_embed.prompts import PromptSet
from mllm_embed.ranking import ranks_of_targets, top_k
from mllm_embed.types import Document, Query

from .metrics import Ranks, hits_at_k, mean_average_precision, mrr

KS = (1, 5, 10)
ANSWERS = 10
COMPOSED = "composed"
ROWS = (COMPOSED, "image only", "text only", "sum")
RULES = {
    "ties": "equal scores are ranked in gallery order",
    "scores": "cosine: inner product of the float32 vectors in float64, rounded to float32",
    "recall": "a query hits at K when any target is among its first K; percent = 100 * hits / queries",
    "map": "mean over queries of the average precision over the whole ranking",
    "map_at": "mean over queries of the average precision at K, divided by min(targets, K)",
    "mrr": "mean over queries of 1 / rank of the best placed target",
    "image only": "the reference picture, encoded as a gallery picture is",
    "text only": "the instruction, encoded with the text prompt",
    "sum": "image only + text only, normalised",
    "caption_to_image": "each gallery caption asks for its picture; one with the same caption counts too",
}


class Encoder(Protocol):
    """What is needed of `MLLMEmbedder` here."""

    prompts: PromptSet

    def encode(
        self, inputs: Sequence[Query | Document], *, batch_size: int = 32, show_progress: bool | None = None
    ) -> np.ndarray:
        """Unit vectors [N, D] float32 for the inputs."""
        ...


@dataclass(frozen=True)
class Row:
    """What one kind of query reached. Values lie in [0, 1]; `hits` counts queries."""

    queries: int
    hits: dict[int, int]
    map: float
    map_at: dict[int, float]
    mrr: float

    @classmethod
    def of(cls, ranks: Ranks) -> Row:
        """Measure the ranks of the targets, one array a query."""
        hits = {k: hits_at_k(ranks, k) for k in KS}
        precisions = {k: mean_average_precision(ranks, k) for k in KS}
        return cls(len(ranks), hits, mean_average_precision(ranks), precisions, mrr(ranks))

    def percent(self, k: int) -> float:
        """Recall@k in percent."""
        return 100 * self.hits[k] / self.queries

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; recall in percent beside the hits it comes from."""
        return {
            "queries": self.queries,
            "hits": {str(k): count for k, count in self.hits.items()},
            "percent": {str(k): self.percent(k) for k in self.hits},
            "map": self.map,
            "map_at": {str(k): value for k, value in self.map_at.items()},
            "mrr": self.mrr,
        }


@dataclass(frozen=True)
class Result:
    """All that was measured on one benchmark; `answers` [Q, <=10]: gallery positions, best first."""

    benchmark: str
    fingerprint: str
    gallery: int
    rows: dict[str, Row]
    kinds: dict[str, Row]
    caption_to_image: Row | None
    protocol: dict[str, Any]
    seconds: dict[str, float]
    answers: np.ndarray = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the answers."""
        return {
            "benchmark": {"name": self.benchmark, "fingerprint": self.fingerprint, "gallery": self.gallery},
            "rows": {name: row.to_dict() for name, row in self.rows.items()},
            "kinds": {name: row.to_dict() for name, row in self.kinds.items()},
            "caption_to_image": self.caption_to_image.to_dict() if self.caption_to_image else None,
            "protocol": self.protocol,
            "seconds": self.seconds,
        }


def evaluate(embedder: Encoder, benchmark: Benchmark, *, batch_size: int = 32, progress: bool | None = None) -> Result:
    """Embed the benchmark, rank its gallery for every query, and measure.

    Args:
        embedder: an `MLLMEmbedder`, or anything with its `encode` and `prompts`.
        benchmark: gallery and queries, from `mllm_embed.folder`.
        batch_size: items encoded at once.
        progress: whether to show a progress bar; None leaves it to the embedder.

    Returns:
        The rows composed, image only, text only, sum; the composed row by kind; caption to image where the
        gallery has captions.

    Raises:
        DataError: no queries, or vectors with NaN. ImageError: a picture that cannot be read.
    """
    if not benchmark.queries:
        raise DataError(f"benchmark {benchmark.name} has no queries")
    fingerprint = benchmark.fingerprint()
    targets, exclude = _positions(benchmark)
    started = time.perf_counter()
    vectors = _vectors(embedder, benchmark, batch_size, progress)
    embedded = time.perf_counter()
    gallery = vectors.pop("gallery")
    ranks = {name: ranks_of_targets(vectors[name], gallery, targets, exclude) for name in ROWS}
    answers = top_k(vectors[COMPOSED], gallery, ANSWERS, exclude)[1]
    rows = {name: Row.of(ranks[name]) for name in ROWS}
    kinds = _by_kind(benchmark, ranks[COMPOSED])
    captions = _caption_to_image(benchmark, vectors["captions"], gallery)
    seconds = {"embedding": embedded - started, "ranking": time.perf_counter() - embedded}
    protocol = {"excluded": _exclusion_rule(benchmark), **RULES, "prompts": embedder.prompts.to_dict()}
    return Result(benchmark.name, fingerprint, len(gallery), rows, kinds, captions, protocol, seconds, answers)


def _vectors(embedder: Encoder, benchmark: Benchmark, batch_size: int, progress: bool | None) -> dict[str, np.ndarray]:
    """Vectors of everything, from one call, in which the embedder encodes what recurs only once."""
    queries = benchmark.queries
    parts: dict[str, list[Query | Document]] = {
        "gallery": [Document(image=item.image) for item in benchmark.gallery],
        "captions": [Document(text=text) for text in _captions(benchmark)],
        COMPOSED: [Query(image=query.image, instruction=query.instruction) for query in queries],
        "image only": [Document(image=query.image) for query in queries],
        "text only": [Document(text=query.instruction) for query in queries],
    }
    items = [item for part in parts.values() for item in part]
    encoded = embedder.encode(items, batch_size=batch_size, show_progress=progress)
    ends = np.cumsum([len(part) for part in parts.values()])[:-1]
    vectors = dict(zip(parts, np.split(np.asarray(encoded, dtype=np.float32), ends), strict=True))
    total = vectors["image only"] + vectors["text only"]
    length = np.linalg.norm(total, axis=1, keepdims=True)
    vectors["sum"] = total / np.maximum(length, np.finfo(np.float32).tiny)
    return vectors


def _captions(benchmark: Benchmark) -> dict[str, list[int]]:
    """Each distinct caption of the gallery and the positions of the pictures that have it."""
    positions: dict[str, list[int]] = {}
    for position, item in enumerate(benchmark.gallery):
        if item.caption is not None:
            positions.setdefault(item.caption, []).append(position)
    return positions


def _caption_to_image(benchmark: Benchmark, vectors: np.ndarray, gallery: np.ndarray) -> Row | None:
    positions = list(_captions(benchmark).values())
    if not positions:
        return None
    ranks = ranks_of_targets(vectors, gallery, positions)
    return Row.of([row for row, same in zip(ranks, positions, strict=True) for _ in same])


def _positions(benchmark: Benchmark) -> tuple[list[list[int]], list[set[int]]]:
    place = {item.id: position for position, item in enumerate(benchmark.gallery)}
    for query in benchmark.queries:
        lost = [name for name in (*query.targets, *query.exclude) if name not in place]
        if lost or not query.targets:
            wrong = f'"{lost[0]}" is not in the gallery' if lost else "it has no target"
            raise DataError(f'query "{query.id}" of benchmark {benchmark.name}: {wrong}')
    targets = [[place[name] for name in query.targets] for query in benchmark.queries]
    return targets, [{place[name] for name in query.exclude} for query in benchmark.queries]


def _by_kind(benchmark: Benchmark, ranks: Ranks) -> dict[str, Row]:
    kinds: dict[str, list[np.ndarray]] = {}
    for query, row in zip(benchmark.queries, ranks, strict=True):
        if query.kind is not None:
            kinds.setdefault(query.kind, []).append(row)
    return {kind: Row.of(kinds[kind]) for kind in sorted(kinds)}


def _exclusion_rule(benchmark: Benchmark) -> str:
    count = sum(bool(query.exclude) for query in benchmark.queries)
    if not count:
        return "nothing: every query ranks the whole gallery, its own reference picture included if it is there"
    return f"the gallery ids under exclude, which {count} of {len(benchmark.queries)} queries have"
