"""The first answers of a search in another order: by what reads query and answer together, whoever that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigError
from ..types import Document, Item

if TYPE_CHECKING:
    from .searcher import Hit

DEPTH = 10


class Judge(Protocol):
    """What says how well candidates fit a query: a `Reranker`, or a `ZeroShotJudge`."""

    def scores(self, query: Item, candidates: Sequence[Any]) -> list[float]:
        """Return a score for each candidate, of which more is better."""
        ...


def reranked(judge: Judge, query: Item, hits: Sequence[Hit], depth: int = DEPTH, weight: float = 0.0) -> list[Hit]:
    """Return the first `depth` hits in the order of a judge, and the rest as they are.

    Their `judged` is its score; `score` stays that of the search, which counts `weight` times beside it (LamRA, arXiv
    2412.01720, adds the two: 1, of a judge whose scores are probabilities). Equal ones keep the search's order. Hits
    whose picture is not known stay behind those that were judged. Raises what the judge does, ConfigError for a depth
    below 0 and a weight that is no finite number.
    """
    if depth < 0 or not math.isfinite(weight):
        raise ConfigError(f"depth must be 0 or more and weight a finite number, not {depth} and {weight}")
    # also where there is nothing to judge: a judge that cannot be asked says so
    return in_order(hits, judge.scores(query, shown(hits, depth)), depth, weight)


def shown(hits: Sequence[Hit], depth: int) -> list[Document]:
    """Return what is judged of hits: the first `depth` whose picture is known."""
    return [Document(image=hit.image) for hit in hits[:depth] if hit.image is not None]


def in_order(hits: Sequence[Hit], scores: Sequence[float], depth: int, weight: float) -> list[Hit]:
    """Return hits as `reranked` does, by the scores of those that are `shown`."""
    seen = [hit for hit in hits[:depth] if hit.image is not None]
    unseen = [hit for hit in hits[:depth] if hit.image is None]
    judged = [replace(hit, judged=score) for hit, score in zip(seen, scores, strict=True)]
    order = sorted(judged, key=lambda hit: -(hit.judged or 0.0) - weight * hit.score)
    return [*order, *unseen, *hits[depth:]]
