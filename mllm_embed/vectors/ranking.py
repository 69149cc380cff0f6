"""Exact ranking by inner product: fast products find the candidates, one score settles the order.

FAISS, a BLAS product and the same product of fewer queries give scores that differ in the last bit, and FAISS returns
equal scores with the higher id first. Neither may decide a reported number. So the score of a pair is defined once, by
`matrix.scores_of`, as the float32 nearest to its float64 inner product. Fast float32 products only tell which pairs are
certainly above or below (their rounding error has a bound, `matrix.slack`); pairs too close to call are scored again by
the definition. The order is (-score, gallery position), so `top_k` equals a stable sort of all scores and
`ranks_of_targets` agrees with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .best import Best
from .matrix import Matrix, check_pair, scores_of, slack

_BLOCK_VALUES = 1 << 23  # float32 products at a time: 32 MB


@dataclass(frozen=True)
class TargetRanks:
    """The ranks, from 1, of every query's targets, one int64 array a query in the order of its targets.

    Equal scores are settled in gallery order, or with the other rows behind (optimistic) or ahead (pessimistic) of
    the targets. Two targets of one query that score alike stand in gallery order under every rule.
    """

    gallery: list[np.ndarray]
    optimistic: list[np.ndarray]
    pessimistic: list[np.ndarray]

    @classmethod
    def of(cls, sizes: Sequence[int], counts: np.ndarray) -> TargetRanks:
        """Return the ranks by how many rows come before each target, [3, M] int64, for queries with `sizes` targets."""
        ends = np.cumsum(sizes)[:-1]
        return cls(*(np.split(1 + row, ends) if len(sizes) else [] for row in counts))


def top_k(
    queries: np.ndarray, gallery: np.ndarray, k: int, exclude: Sequence[Collection[int]] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best gallery rows of every query, equal scores in gallery order.

    Args:
        queries: [Q, D] vectors, cast to float32.
        gallery: [N, D] vectors, cast to float32.
        k: how many to return; cut to N.
        exclude: for each query the gallery positions that may not be returned.

    Returns:
        Scores [Q, k] float32 and gallery positions [Q, k] int64. A query with fewer than k allowed rows is
        filled up with score -inf and position -1.

    Raises:
        DataError: NaN or infinite values, shapes that do not fit, k < 1, positions outside the gallery.
    """
    asked, found = _matrices(queries, gallery)
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}")
    best = Best(asked, min(k, len(found)), _excluded_pairs(exclude, len(asked), len(found)))
    best.see(found, np.arange(len(found)))
    return best.result()


def ranks_of_targets(
    queries: np.ndarray,
    gallery: np.ndarray,
    targets: Sequence[Sequence[int]],
    exclude: Sequence[Collection[int]] | None = None,
) -> TargetRanks:
    """Return the rank of every target among all allowed gallery rows: in gallery order, its place in `top_k`, k = N.

    Args:
        queries: [Q, D] vectors, cast to float32.
        gallery: [N, D] vectors, cast to float32.
        targets: for each query the gallery positions that are right.
        exclude: for each query the gallery positions that do not take part.

    Raises:
        DataError: as `top_k`, and a target that is excluded.
    """
    asked, found = _matrices(queries, gallery)
    rows, columns = _excluded_pairs(exclude, len(asked), len(found))
    owners, wanted = _flat_pairs(targets, len(asked), len(found), "targets")
    keys = owners * len(found) + wanted
    without = np.flatnonzero(np.isin(keys, rows * len(found) + columns))
    if len(without):
        raise DataError(f"query {owners[without[0]]}: its target {wanted[without[0]]} is excluded and has no rank")
    bound = slack(asked, found)
    counts = np.empty((3, len(owners)), dtype=np.int64)
    step = max(1, _BLOCK_VALUES // len(found))
    for at in range(0, len(owners), step):
        part = slice(at, at + step)
        distinct, local = np.unique(owners[part], return_inverse=True)
        fast = asked.values[distinct] @ found.values.T
        mine = np.isin(rows, distinct)
        fast[np.searchsorted(distinct, rows[mine]), columns[mine]] = -np.inf
        own = scores_of(asked, found, owners[part], wanted[part])
        # a float32 product may be off by the slack either way: beyond it the order is certain, within it scores decide
        above = fast[local] - own[:, None].astype(np.float64)
        margin = bound[owners[part], None]
        pair, column = np.nonzero(np.abs(above) <= margin)
        owner = owners[part][pair]
        exact = scores_of(asked, found, owner, column)
        close = _ahead(exact, own[pair], column, wanted[part][pair], np.isin(owner * len(found) + column, keys))
        certain = (above > margin).sum(axis=1)
        counts[:, part] = [certain + np.bincount(pair[row], minlength=len(own)) for row in close]
    return TargetRanks.of([len(row) for row in targets], counts)


def ranks_among(
    queries: np.ndarray, gallery: np.ndarray, targets: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]
) -> TargetRanks:
    """Return the rank of every target among the few gallery rows that its query may choose from.

    A candidate named twice counts twice, as in GeneCIS' own scorer; a twin of the target itself does not count.

    Args:
        queries: [Q, D] vectors, cast to float32.
        gallery: [N, D] vectors, cast to float32.
        targets: for each query the gallery positions that are right.
        candidates: for each query the gallery positions that take part, the targets among them.

    Raises:
        DataError: as `top_k`, and a target that is no candidate.
    """
    asked, found = _matrices(queries, gallery)
    rows, columns = _flat_pairs(candidates, len(asked), len(found), "candidates")
    owners, wanted = _flat_pairs(targets, len(asked), len(found), "targets")
    keys = owners * len(found) + wanted
    without = np.flatnonzero(~np.isin(keys, rows * len(found) + columns))
    if len(without):
        raise DataError(f"query {owners[without[0]]}: its target {wanted[without[0]]} is not one of its candidates")
    own, scores = scores_of(asked, found, owners, wanted), scores_of(asked, found, rows, columns)
    # every target meets every candidate of its query: rows are sorted by query, so these stand in one slice each
    sizes = np.bincount(rows, minlength=len(asked))
    pair = np.repeat(np.arange(len(owners)), sizes[owners])
    first = np.concatenate([[0], np.cumsum(sizes)])[owners]
    place = np.arange(len(pair)) - np.repeat(np.cumsum(sizes[owners]) - sizes[owners], sizes[owners]) + first[pair]
    other = np.isin(rows[place] * len(found) + columns[place], keys)
    ahead = _ahead(scores[place], own[pair], columns[place], wanted[pair], other)
    counts = np.stack([np.bincount(pair[row], minlength=len(owners)) for row in ahead])
    return TargetRanks.of([len(row) for row in targets], counts)


def top_among(
    queries: np.ndarray, gallery: np.ndarray, k: int, candidates: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of the few gallery rows that each query may choose from.

    Args:
        queries: [Q, D] vectors, cast to float32.
        gallery: [N, D] vectors, cast to float32.
        k: how many to return.
        candidates: for each query the gallery positions that take part.

    Returns:
        Scores [Q, k] float32 and gallery positions [Q, k] int64, in the order of `top_k` and filled up as there.

    Raises:
        DataError: as `top_k`.
    """
    asked, found = _matrices(queries, gallery)
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}")
    rows, columns = _flat_pairs(candidates, len(asked), len(found), "candidates")
    sizes = np.bincount(rows, minlength=len(asked))
    places = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    width = max(k, int(sizes.max(initial=0)))
    scores = np.full((len(asked), width), -np.inf, dtype=np.float32)
    indices = np.full((len(asked), width), -1, dtype=np.int64)
    scores[rows, places] = scores_of(asked, found, rows, columns)
    indices[rows, places] = columns
    order = np.lexsort((indices, -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(indices, order, axis=1)


def _ahead(
    scores: np.ndarray, own: np.ndarray, columns: np.ndarray, wanted: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Tell whether a row comes before a target under each of the three rules, for P pairs of them: [3, P] bool.

    Args:
        scores, own: [P] float32 of the row and of the target.
        columns, wanted: [P] int64, their gallery positions.
        right: [P] bool, whether the row is a target of the same query.
    """
    # equal scores: gallery order decides alone, or among targets only, with all others behind, or ahead, of them
    higher, equal, before = scores > own, (scores == own) & (columns != wanted), columns < wanted
    return np.stack(
        [higher | (equal & before), higher | (equal & before & right), higher | (equal & (before | ~right))]
    )


def _matrices(queries: np.ndarray, gallery: np.ndarray) -> tuple[Matrix, Matrix]:
    """Return both as checked float32 matrices that fit together."""
    asked, found = Matrix.of(queries, "queries"), Matrix.of(gallery, "gallery")
    if not len(found):
        raise DataError("the gallery is empty: there is nothing to rank")
    check_pair(asked, found)
    return asked, found


def _excluded_pairs(
    exclude: Sequence[Collection[int]] | None, queries: int, gallery: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return `_flat_pairs` of what is excluded: none where nothing is."""
    if exclude is None:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return _flat_pairs(exclude, queries, gallery, "exclude")


def _flat_pairs(
    lists: Sequence[Collection[int]], queries: int, gallery: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return lists of positions as two flat int64 arrays: the query and the gallery position of each entry."""
    if len(lists) != queries:
        raise DataError(f"{name} has {len(lists)} entries for {queries} queries")
    owners = np.repeat(np.arange(queries), [len(row) for row in lists])
    columns = np.fromiter((int(column) for row in lists for column in row), dtype=np.int64)
    outside = np.flatnonzero((columns < 0) | (columns >= gallery))
    if len(outside):
        where = outside[0]
        raise DataError(f"{name} of query {owners[where]}: {columns[where]} is no position in a gallery of {gallery}")
    return owners, columns
