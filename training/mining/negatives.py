"""Hard negatives from vectors: near a query, but not so near that they are probably right as well."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from tqdm import tqdm

from mllm_embed.errors import ConfigError
from mllm_embed.vectors.ranking import top_k

from .questions import Questions

Right: TypeAlias = Callable[[slice], Sequence[Collection[int]]]
_BLOCK_VALUES = 1 << 22  # scores in memory at a time while the gallery is searched
_SAME = 1 - 1e-6  # cosine of vectors that differ by rounding: a picture saved twice, say as PNG and as BMP
_NEAR = 2e-3  # two such vectors' cosines with a third differ by less: |q(a - b)| <= |a - b| = sqrt(2 - 2 _SAME)
_TIED = 4e-6  # what rounding makes of the similarity of one picture that is there twice


@dataclass(frozen=True)
class Rules:
    """The rules by which candidates count as negatives.

    Args:
        count: at most so many for a query.
        skip: the best so many candidates are passed over.
        ceiling: a candidate above `ceiling` times the similarity of the positive is taken for a false negative
            (NV-Retriever's rule). Where that similarity is negative, the limit lies as far below it. Infinite,
            it leaves out nothing but what is known to be right, for those who trust their answers to be all.
        at_most: a candidate above this similarity is one too; None sets no such limit.
        depth: how many candidates are looked at.
        siblings: so many of `count` are answers to other questions on the same picture, where there are as many,
            however far they lie; a stage that reads fewer than `count` reads the nearest of all.
    """

    count: int = 5
    skip: int = 0
    ceiling: float = 0.95
    at_most: float | None = None
    depth: int = 200
    siblings: int = 0

    def check(self, gallery: int) -> None:
        """Raise ConfigError for a rule that makes no sense, or asks for more than the gallery has."""
        if self.count < 1:
            raise ConfigError(f"--count must be at least 1, not {self.count}")
        if self.skip < 0:
            raise ConfigError(f"--skip must be 0 or more, not {self.skip}")
        if not self.ceiling > 0:
            raise ConfigError(f"--ceiling is a share of the positive's similarity, a number above 0: {self.ceiling}")
        if self.at_most is not None and not -1 < self.at_most <= 1:
            raise ConfigError(f"--at-most is a cosine, above -1 and up to 1, not {self.at_most}")
        if not 0 <= self.siblings <= self.count:
            raise ConfigError(f"--siblings is a part of --count, 0 to {self.count}, not {self.siblings}")
        if self.count + self.skip > self.depth:
            raise ConfigError(
                f"--depth {self.depth} must be at least --skip and --count together, {self.skip + self.count}"
            )
        if self.count + self.skip >= gallery:
            raise ConfigError(
                f"--skip {self.skip} and --count {self.count} ask for more than the {gallery} distinct candidates, "
                "of which one is the positive; lower them"
            )


@dataclass(frozen=True)
class Negatives:
    """The negatives of Q queries.

    Args:
        places: [Q, count] int64 places in the gallery, the hardest first, -1 where there are no more.
        similarity: [Q, count] float32 cosines, -inf where there are no more.
        above: [Q] int64, how many candidates the ceiling took out before `count` were found.
        positive: [Q] float32, the mean cosine of the query and its positives.
    """

    places: np.ndarray
    similarity: np.ndarray
    above: np.ndarray
    positive: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Negatives]) -> Negatives:
        """Return what was found for the queries of all parts, one part after the other; of none, nothing."""
        if not parts:
            nothing = np.empty(0, np.float32)
            return cls(np.empty((0, 1), np.int64), nothing[:, None], np.empty(0, np.int64), nothing)
        return cls(
            np.concatenate([part.places for part in parts]),
            np.concatenate([part.similarity for part in parts]),
            np.concatenate([part.above for part in parts]),
            np.concatenate([part.positive for part in parts]),
        )


def search_blocks(
    queries: np.ndarray, gallery: np.ndarray, right: Right, depth: int, progress: bool | None = None
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Rank the gallery for all queries, exactly, without what is right, a block of queries at a time.

    Args:
        queries, gallery: [Q, D] and [N, D] float32 of unit length.
        right: gives for each query of a part the places of what is right.
        depth: how many places are given for a query, or the whole gallery where that is smaller.
        progress: None shows a bar on a terminal.

    Yields which queries, their scores [q, depth] float32 and places [q, depth] int64, -inf and -1 past the end.
    """
    depth = min(depth, len(gallery))
    step = max(1, _BLOCK_VALUES // depth)
    hide = None if progress is None else not progress
    with tqdm(total=len(queries), desc="searching", unit="query", disable=hide, mininterval=1) as bar:
        for start in range(0, len(queries), step):
            part = slice(start, min(start + step, len(queries)))
            yield part, *top_k(queries[part], gallery, depth, right(part))
            bar.update(part.stop - start)


def choose(scores: np.ndarray, places: np.ndarray, positive: np.ndarray, rules: Rules) -> Negatives:
    """Return the negatives that `rules` choose of what a search found.

    Args:
        scores, places: [Q, K] as `search_blocks` gives them, the best first, without what is right. A place -1 in
            between is passed over.
        positive: [Q] float32, the similarity that a query's right answers have.
        rules: a checked set.
    """
    limit = np.full_like(positive, np.inf)
    if rules.ceiling < math.inf:
        limit = positive - (1 - rules.ceiling) * np.abs(positive)
    if rules.at_most is not None:
        limit = np.minimum(limit, rules.at_most)
    there = places >= 0
    there &= np.cumsum(there, axis=1) > rules.skip
    above = there & (scores > limit[:, None])
    allowed = there & ~above
    # a stable sort by a flag moves the allowed ones to the front and leaves them in their order, the best first
    order = np.argsort(~allowed, axis=1, kind="stable")[:, : rules.count]
    none = ~np.take_along_axis(allowed, order, axis=1)
    found, similarity = np.take_along_axis(places, order, axis=1), np.take_along_axis(scores, order, axis=1)
    found[none], similarity[none] = -1, -np.inf
    short = max(0, rules.count - found.shape[1])
    return Negatives(
        np.pad(found, ((0, 0), (0, short)), constant_values=-1),
        np.pad(similarity, ((0, 0), (0, short)), constant_values=-np.inf),
        above.sum(axis=1),
        positive,
    )


def joined_by_similarity(first: Negatives, then: Negatives, count: int) -> Negatives:
    """Return the negatives of `first`, filled up to `count` a query from the best of `then`, the hardest first.

    What both have is taken once; `above` and `positive` are those of `then`.
    """
    again = (then.places[:, :, None] == first.places[:, None]).any(axis=2)
    places = np.concatenate([first.places, np.where(again, -1, then.places)], axis=1)
    similarity = np.concatenate([first.similarity, np.where(again, -np.inf, then.similarity)], axis=1)
    kept = np.argsort(places < 0, axis=1, kind="stable")[:, :count]
    places, similarity = np.take_along_axis(places, kept, 1), np.take_along_axis(similarity, kept, 1)
    order = np.argsort(-similarity, axis=1, kind="stable")
    return Negatives(
        np.take_along_axis(places, order, 1), np.take_along_axis(similarity, order, 1), then.above, then.positive
    )


def without_duplicates(
    queries: np.ndarray,
    gallery: np.ndarray,
    scores: np.ndarray,
    places: np.ndarray,
    right: Sequence[Collection[int]],
) -> np.ndarray:
    """Return `places` [Q, K] with -1 for what no model can tell from something right, or from the candidate before it.

    Args:
        queries: [Q, D] the vectors searched for, gallery: [N, D], both of length 1.
        scores, places: [Q, K] as `search_blocks` gives them.
        right: for each query the places of what is right.
    """
    # scores first: a duplicate's is nearly the same, so that few vectors have to be read
    there = (places[:, 1:] >= 0) & (places[:, :-1] >= 0)
    tied, before = np.nonzero((scores[:, 1:] >= scores[:, :-1] - _TIED) & there)
    query, column, other = [tied], [before + 1], [places[tied, before]]
    for number, known in enumerate(right):
        for place in known:
            near = np.flatnonzero(np.abs(scores[number] - queries[number] @ gallery[place]) < _NEAR)
            query.append(np.full(len(near), number))
            column.append(near)
            other.append(np.full(len(near), place))
    rows, columns, others = np.concatenate(query), np.concatenate(column), np.concatenate(other)
    found = places.copy()
    step = max(1, _BLOCK_VALUES // gallery.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        own = gallery[places[rows[part], columns[part]]]
        same = np.einsum("ij,ij->i", own, gallery[others[part]], dtype=np.float64) > _SAME
        found[rows[part][same], columns[part][same]] = -1
    return found


def positive_similarity(queries: np.ndarray, gallery: np.ndarray, questions: Questions) -> np.ndarray:
    """Return [Q] float32, the mean cosine of each query and the positives of its rows."""
    total, rows = np.zeros(len(queries)), np.bincount(questions.query, minlength=len(queries))
    step = max(1, _BLOCK_VALUES // queries.shape[1])
    for start in range(0, len(questions.query), step):
        query, positive = questions.query[start : start + step], questions.positive[start : start + step]
        total += np.bincount(query, np.einsum("ij,ij->i", queries[query], gallery[positive]), len(queries))
    return (total / np.maximum(rows, 1)).astype(np.float32)
