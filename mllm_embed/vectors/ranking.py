"""Exact ranking by inner product: FAISS finds the candidates, one score settles the order.

FAISS, a BLAS product and the same FAISS call on fewer queries give scores that differ in the last bit, and
FAISS returns equal scores with the higher id first. Neither may decide a reported number. So the score of a
pair is defined here once, as the float32 nearest to its float64 inner product: it depends on the two
vectors alone, never on the batch, the library or the number of threads. Fast float32 products only tell
which pairs are certainly above or below (their rounding error has a bound); pairs too close to call are
scored again by the definition. The order is (-score, gallery position), so `top_k` equals a stable sort of
all scores and `ranks_of_targets` agrees with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError

_MARGIN = 16  # rows fetched beyond k, so that a near tie at the k-th place is mostly settled at the first try
_BLOCK_VALUES = 1 << 23  # float32 products at a time: 32 MB
_CACHED_VALUES = 1 << 18  # 2 MB of float64, which stay in a core's cache: more than twice as fast as larger blocks
_UNIT_ROUNDOFF = 2.0**-24
_SHORT = 1e-30  # a squared length in float32 below this may have lost what underflows
_LARGEST = 1e37  # products of longer vectors may overflow float32


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
    queries, gallery, squares = _matrices(queries, gallery)
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}")
    k = min(k, len(gallery))
    rows, columns = _excluded_pairs(exclude, len(queries), len(gallery))
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    indices = np.full((len(queries), k), -1, dtype=np.int64)
    # FAISS fetches before anything is excluded: a query may lose as many as it excludes, and must have k left
    longest = int(np.bincount(rows, minlength=1).max()) if len(rows) else 0
    fetch = min(k + longest + _MARGIN, len(gallery))
    slack = _slack(squares, gallery.shape[1])
    pending = np.arange(len(queries))
    while len(pending):
        unsettled = []
        step = max(1, _BLOCK_VALUES // fetch)
        for part in (pending[at : at + step] for at in range(0, len(pending), step)):
            lowest, found = _candidates(queries[part], gallery, fetch)
            exact = _scores(queries, gallery, np.repeat(part, fetch), found.ravel()).reshape(found.shape)
            # a pair of query and row is one number, row-major, so that pairs can be looked up among pairs
            exact[np.isin(part[:, None] * len(gallery) + found, rows * len(gallery) + columns)] = -np.inf
            order = np.lexsort((found, -exact), axis=-1)[:, :k]
            scores[part] = np.take_along_axis(exact, order, axis=1)
            indices[part] = np.take_along_axis(found, order, axis=1)
            # Nothing left out can reach the k-th score: its float32 score is at most the lowest fetched.
            settled = (lowest + slack[part] < scores[part, -1]) | (fetch == len(gallery))
            unsettled.append(part[~settled])
        pending = np.concatenate(unsettled)
        fetch = min(4 * fetch, len(gallery))  # at the latest all rows settle a query
    indices[np.isneginf(scores)] = -1
    return scores, indices


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
    queries, gallery, squares = _matrices(queries, gallery)
    rows, columns = _excluded_pairs(exclude, len(queries), len(gallery))
    owners, wanted = _flat_pairs(targets, len(queries), len(gallery), "targets")
    keys = owners * len(gallery) + wanted
    without = np.flatnonzero(np.isin(keys, rows * len(gallery) + columns))
    if len(without):
        raise DataError(f"query {owners[without[0]]}: its target {wanted[without[0]]} is excluded and has no rank")
    slack = _slack(squares, gallery.shape[1])
    counts = np.empty((3, len(owners)), dtype=np.int64)
    step = max(1, _BLOCK_VALUES // len(gallery))
    for at in range(0, len(owners), step):
        part = slice(at, at + step)
        distinct, local = np.unique(owners[part], return_inverse=True)
        fast = queries[distinct] @ gallery.T
        mine = np.isin(rows, distinct)
        fast[np.searchsorted(distinct, rows[mine]), columns[mine]] = -np.inf
        own = _scores(queries, gallery, owners[part], wanted[part])
        # a float32 product may be off by the slack either way: beyond it the order is certain, within it scores decide
        above = fast[local] - own[:, None].astype(np.float64)
        margin = slack[owners[part], None]
        pair, column = np.nonzero(np.abs(above) <= margin)
        owner = owners[part][pair]
        exact = _scores(queries, gallery, owner, column)
        close = _ahead(exact, own[pair], column, wanted[part][pair], np.isin(owner * len(gallery) + column, keys))
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
    queries, gallery, _ = _matrices(queries, gallery)
    rows, columns = _flat_pairs(candidates, len(queries), len(gallery), "candidates")
    owners, wanted = _flat_pairs(targets, len(queries), len(gallery), "targets")
    keys = owners * len(gallery) + wanted
    without = np.flatnonzero(~np.isin(keys, rows * len(gallery) + columns))
    if len(without):
        raise DataError(f"query {owners[without[0]]}: its target {wanted[without[0]]} is not one of its candidates")
    own, scores = _scores(queries, gallery, owners, wanted), _scores(queries, gallery, rows, columns)
    # every target meets every candidate of its query: rows are sorted by query, so these stand in one slice each
    sizes = np.bincount(rows, minlength=len(queries))
    pair = np.repeat(np.arange(len(owners)), sizes[owners])
    first = np.concatenate([[0], np.cumsum(sizes)])[owners]
    place = np.arange(len(pair)) - np.repeat(np.cumsum(sizes[owners]) - sizes[owners], sizes[owners]) + first[pair]
    other = np.isin(rows[place] * len(gallery) + columns[place], keys)
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
    queries, gallery, _ = _matrices(queries, gallery)
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}")
    rows, columns = _flat_pairs(candidates, len(queries), len(gallery), "candidates")
    sizes = np.bincount(rows, minlength=len(queries))
    places = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    width = max(k, int(sizes.max(initial=0)))
    scores = np.full((len(queries), width), -np.inf, dtype=np.float32)
    indices = np.full((len(queries), width), -1, dtype=np.int64)
    scores[rows, places] = _scores(queries, gallery, rows, columns)
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


def _scores(queries: np.ndarray, gallery: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the scores [M] float32 of pairs of positions: the definition, a float64 inner product, rounded."""
    scores = np.empty(len(rows), dtype=np.float32)
    step = max(1, _CACHED_VALUES // gallery.shape[1])
    for at in range(0, len(rows), step):
        part = slice(at, at + step)
        scores[part] = (queries[rows[part]].astype(np.float64) * gallery[columns[part]]).sum(axis=1)
    return scores


def _candidates(queries: np.ndarray, gallery: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return FAISS's `count` best rows a query: the lowest of their float32 scores [Q], their positions [Q, count]."""
    import faiss

    if count == len(gallery):
        found = np.broadcast_to(np.arange(count), (len(queries), count))
        return np.full(len(queries), -np.inf), found
    scores, found = faiss.knn(queries, gallery, count, metric=faiss.METRIC_INNER_PRODUCT)
    return scores[:, -1].astype(np.float64), found


def _slack(squares: tuple[np.ndarray, np.ndarray], width: int) -> np.ndarray:
    """Return a bound [Q] on |fast float32 product - score|, whatever the order of summation (Higham 2002, 3.1).

    squares: the squared lengths of the queries [Q] and of the gallery's rows [N], `width` values each.
    """
    terms = width + 2
    blur = 1 + 2 * terms * _UNIT_ROUNDOFF  # of the squares themselves
    lengths = blur * np.sqrt(squares[0] * squares[1].max(initial=0))
    return lengths * terms * _UNIT_ROUNDOFF / (1 - terms * _UNIT_ROUNDOFF) + terms * np.finfo(np.float32).tiny


def _squares(matrix: np.ndarray) -> np.ndarray:
    """Return the squared length of every row [N] float64, reading the matrix once and copying none of it."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", matrix, matrix).astype(np.float64)
    odd = ~((squares > _SHORT) & (squares < np.finfo(np.float32).max))  # out of float32's range, or not finite
    for rows in np.array_split(np.flatnonzero(odd), 1 + odd.sum() * matrix.shape[1] // _BLOCK_VALUES):
        squares[rows] = np.square(matrix[rows].astype(np.float64)).sum(axis=1)
    return squares


def _matrices(queries: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return both as checked float32 matrices, and the squared lengths of their rows."""
    queries, asked = _checked(queries, "queries")
    gallery, found = _checked(gallery, "gallery")
    if not len(gallery):
        raise DataError("the gallery is empty: there is nothing to rank")
    if queries.shape[1] != gallery.shape[1]:
        raise DataError(f"queries have {queries.shape[1]} dimensions and the gallery {gallery.shape[1]}")
    longest = np.sqrt(asked.max(initial=0)) * np.sqrt(found.max(initial=0))
    if not longest < _LARGEST:
        raise DataError(f"the vectors are too long for float32 products ({longest:.0e}): give them unit length")
    return queries, gallery, (asked, found)


def _checked(values: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors as a float32 matrix [N, D], and the squared lengths of its rows [N] float64."""
    matrix = np.ascontiguousarray(values, dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise DataError(f"{name} must be a matrix with one vector a row, not of shape {matrix.shape}")
    squares = _squares(matrix)
    bad = np.flatnonzero(~np.isfinite(squares))
    if len(bad):
        raise DataError(f"{name} row {bad[0]} holds NaN or infinite values ({len(bad)} such rows): cannot rank")
    return matrix, squares


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
