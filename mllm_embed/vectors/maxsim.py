"""MaxSim, the score of late interaction (ColBERT, arXiv 2004.12832, eq. 3), exact and in bounded memory.

    s(Q, D) = mean over the vectors q of Q of  max over the vectors d of D of  q . d

The papers (ColBERT; of pictures ColPali, arXiv 2407.01449, eq. 1) take the sum where the mean is taken here: no ranking
differs by that, since all documents of a query are divided alike, and unit vectors score between -1 and 1 as a cosine
does, whatever a query's length, so that temperatures, margins and weights mean the same as for single vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..errors import DataError
from .counting import ahead
from .multi import MultiVectors
from .ranking import TargetRanks

TILE = 1 << 21  # float64 numbers at a time, of products and of a block's vectors each: 16 MB
_HEIGHT = 1 << 10  # vectors of queries that meet a block of the gallery's together
Allowed = Callable[[int], np.ndarray]
"""A query's number -> the gallery positions [C] int64 that take part in its ranking; one named twice counts twice."""


def maxsim(
    queries: MultiVectors, gallery: MultiVectors, tile: int = TILE, seen: Callable[[int], object] | None = None
) -> np.ndarray:
    """Return the scores [Q, N] float32 of all pairs: products of the float32 vectors in float64, rounded once at the
    end, so that neither batch nor threads decide.

    Products of `tile` pairs of vectors are held at a time, and as many numbers of the gallery in float64, or those of
    one query with one document where these are more; that is a matter of memory and speed alone. `seen` is called with
    the number of pairs that were scored, again and again, for a bar. Raises DataError for vectors of two lengths, and
    for an input without any.
    """
    _check(queries, gallery)
    scores = np.empty((len(queries), len(gallery)), np.float32)
    width = max(1, gallery.values.shape[1])
    for rows in _blocks(queries.counts, _HEIGHT):
        asked, starts = _part(queries, rows)
        counts = queries.counts[rows, None]
        for columns in _blocks(gallery.counts, max(1, tile // max(len(asked), width))):
            found, ends = _part(gallery, columns)
            nearest = np.maximum.reduceat(asked @ found.T, ends, axis=1)
            scores[rows, columns] = np.add.reduceat(nearest, starts, axis=0) / counts
            if seen is not None:
                seen(len(counts) * len(ends))
    return scores


def _check(queries: MultiVectors, gallery: MultiVectors) -> None:
    one, other = queries.values.shape[1], gallery.values.shape[1]
    if one != other:
        raise DataError(f"queries have {one} dimensions and the gallery {other}: both must come from one model")
    for name, own in (("query", queries), ("gallery", gallery)):
        empty = np.flatnonzero(own.counts == 0)
        if len(empty):
            raise DataError(f"{name} {empty[0]} has no vectors ({len(empty)} such): leave it out")
        bad = _first_bad(own.values)
        if bad is not None:
            row = int(np.searchsorted(own.starts, bad, side="right")) - 1
            raise DataError(f"{name} {row} holds NaN or infinite values: cannot rank")


def _first_bad(values: np.ndarray) -> int | None:
    """Return the number of the first vector of [M, D] with NaN or infinite numbers, a block after the other."""
    step = max(1, TILE // max(1, values.shape[1]))
    for first in range(0, len(values), step):
        bad = np.flatnonzero(~np.isfinite(values[first : first + step]).all(axis=1))
        if len(bad):
            return first + int(bad[0])
    return None


def _blocks(counts: np.ndarray, most: int) -> Iterator[slice]:
    """Yield inputs, one after the other, that have `most` vectors together, or one with more."""
    start, held = 0, 0
    for place, count in enumerate(counts.tolist()):
        if place > start and held + count > most:
            yield slice(start, place)
            start, held = place, 0
        held += count
    if start < len(counts):
        yield slice(start, len(counts))


def _part(vectors: MultiVectors, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors [M, D] float64 of some inputs, and where each one's begin among them."""
    starts = vectors.starts[rows.start : rows.stop + 1]
    return vectors.values[starts[0] : starts[-1]].astype(np.float64), starts[:-1] - starts[0]


def ranks_by_scores(scores: np.ndarray, targets: Sequence[Sequence[int]], allowed: Allowed) -> TargetRanks:
    """Return the rank of every target among what is allowed, by scores [Q, N] float32; equal scores as `TargetRanks`
    has them. Raises DataError for a target that takes no part."""
    counts = [np.empty((3, 0), np.int64)]
    for number, wanted in enumerate(targets):
        columns = allowed(number)
        for target in wanted:
            if target not in columns:
                raise DataError(f"query {number}: its target {target} takes no part in the ranking")
            own, right = np.full(len(columns), scores[number, target]), np.isin(columns, wanted)
            before = ahead(scores[number, columns], own, columns, np.full(len(columns), target), right)
            counts.append(before.sum(axis=1)[:, None])
    return TargetRanks.of([len(row) for row in targets], np.concatenate(counts, axis=1))


def top_by_scores(scores: np.ndarray, k: int, allowed: Allowed) -> np.ndarray:
    """Return the k best gallery positions of each query among what is allowed, [Q, k] int64, by scores [Q, N] float32;
    equal scores in gallery order, -1 where there are fewer."""
    best = np.full((len(scores), k), -1, np.int64)
    for number, row in enumerate(scores):
        columns = np.sort(allowed(number))
        order = np.argsort(-row[columns], kind="stable")[:k]
        best[number, : len(order)] = columns[order]
    return best
