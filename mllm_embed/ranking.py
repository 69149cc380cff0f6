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

import numpy as np

from .errors import DataError

_MARGIN = 16
_BLOCK_VALUES = 1 << 23
_UNIT_ROUNDOFF = 2.0**-24


def top_k(
    queries: np.ndarray, gallery: np.ndarray, k: int, exclude: Sequence[Collection[int]] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k best gallery rows of every query, equal scores in gallery order.

    Args:
        queries: [Q, D] vectors, cast to float32.
        gallery: [N, D] vectors, cast to float32.
        k: how many to return; cut to N.
        exclude: for each query the gallery positions that may not be returned.

    Returns:
        Scores [Q, k] float32 and gallery positions [Q, k] int64. A query with fewer than k allowed rows is
        filled up with score -inf and position -1.

    Raises DataError for NaN or infinite values, shapes that do not fit, k < 1, positions outside the gallery.
    """
    queries, gallery = _matrices(queries, gallery)
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}")
    k = min(k, len(gallery))
    rows, columns = _excluded_pairs(exclude, len(queries), len(gallery))
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    indices = np.full((len(queries), k), -1, dtype=np.int64)
    longest = int(np.bincount(rows, minlength=1).max()) if len(rows) else 0
    fetch = min(k + longest + _MARGIN, len(gallery))
    slack = _slack(queries, gallery)
    pending = np.arange(len(queries))
    while len(pending):
        unsettled = []
        step = max(1, _BLOCK_VALUES // fetch)
        for part in (pending[at : at + step] for at in range(0, len(pending), step)):
            lowest, found = _candidates(queries[part], gallery, fetch)
            exact = _scores(queries, gallery, np.repeat(part, fetch), found.ravel()).reshape(found.shape)
            exact[np.isin(part[:, None] * len(gallery) + found, rows * len(gallery) + columns)] = -np.inf
            order = np.lexsort((found, -exact), axis=-1)[:, :k]
            scores[part] = np.take_along_axis(exact, order, axis=1)
            indices[part] = np.take_along_axis(found, order, axis=1)
            # Nothing left out can reach the k-th score: its float32 score is at most the lowest fetched.
            settled = (lowest + slack[part] < scores[part, -1]) | (fetch == len(gallery))
            unsettled.append(part[~settled])
        pending = np.concatenate(unsettled)
        fetch = min(4 * fetch, len(gallery))
    indices[np.isneginf(scores)] = -1
    return scores, indices


def ranks_of_targets(
    queries: np.ndarray,
    gallery: np.ndarray,
    targets: Sequence[Sequence[int]],
    exclude: Sequence[Collection[int]] | None = None,
) -> list[np.ndarray]:
    """The rank, from 1, of every target among all allowed gallery rows: its place in `top_k` with k = N.

    Args:
        queries: [Q, D] vectors, cast to float32.
        gallery: [N, D] vectors, cast to float32.
        targets: for each query the gallery positions that are right.
        exclude: for each query the gallery positions that do not take part.

    Returns:
        One int64 array a query, in the order of its targets.

    Raises DataError as `top_k` does, and for a target that is excluded.
    """
    queries, gallery = _matrices(queries, gallery)
    rows, columns = _excluded_pairs(exclude, len(queries), len(gallery))
    owners, wanted = _flat_pairs(targets, len(queries), len(gallery), "targets")
    keys = rows * len(gallery) + columns
    lost = np.flatnonzero(np.isin(owners * len(gallery) + wanted, keys))
    if len(lost):
        raise DataError(f"query {owners[lost[0]]}: its target {wanted[lost[0]]} is excluded and has no rank")
    slack = _slack(queries, gallery)
    ranks = np.empty(len(owners), dtype=np.int64)
    step = max(1, _BLOCK_VALUES // len(gallery))
    for at in range(0, len(owners), step):
        part = slice(at, at + step)
        distinct, local = np.unique(owners[part], return_inverse=True)
        fast = queries[distinct] @ gallery.T
        mine = np.isin(rows, distinct)
        fast[np.searchsorted(distinct, rows[mine]), columns[mine]] = -np.inf
        own = _scores(queries, gallery, owners[part], wanted[part])
        ranks[part] = 1 + _ahead(fast[local], own, slack[owners[part]], owners[part], wanted[part], queries, gallery)
    return np.split(ranks, np.cumsum([len(row) for row in targets])[:-1]) if len(targets) else []


def _ahead(
    fast: np.ndarray,
    own: np.ndarray,
    slack: np.ndarray,
    owners: np.ndarray,
    wanted: np.ndarray,
    queries: np.ndarray,
    gallery: np.ndarray,
) -> np.ndarray:
    """How many gallery rows come before each target [M]: fast [M, N] float32 products, own [M] scores."""
    margin = slack[:, None]
    above = fast - own[:, None].astype(np.float64)
    count = (above > margin).sum(axis=1)
    pair, column = np.nonzero(np.abs(above) <= margin)
    exact = _scores(queries, gallery, owners[pair], column)
    before = (exact > own[pair]) | ((exact == own[pair]) & (column < wanted[pair]))
    return count + np.bincount(pair[before], minlength=len(count))


def _scores(queries: np.ndarray, gallery: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The definition of a score: float64 inner product of each pair of positions, rounded to float32 [M]."""
    scores = np.empty(len(rows), dtype=np.float32)
    step = max(1, _BLOCK_VALUES // gallery.shape[1])
    for at in range(0, len(rows), step):
        part = slice(at, at + step)
        scores[part] = (queries[rows[part]].astype(np.float64) * gallery[columns[part]]).sum(axis=1)
    return scores


def _candidates(queries: np.ndarray, gallery: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """FAISS's `count` best rows a query: its lowest float32 score [Q] and the positions [Q, count]."""
    import faiss

    if count == len(gallery):
        found = np.broadcast_to(np.arange(count), (len(queries), count))
        return np.full(len(queries), -np.inf), found
    scores, found = faiss.knn(queries, gallery, count, metric=faiss.METRIC_INNER_PRODUCT)
    return scores[:, -1].astype(np.float64), found


def _slack(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """A bound [Q] on |fast float32 product - score|, whatever the order of summation (Higham 2002, 3.1)."""
    terms = gallery.shape[1] + 2
    longest = np.sqrt(np.square(gallery, dtype=np.float64).sum(axis=1).max())
    lengths = np.sqrt(np.square(queries, dtype=np.float64).sum(axis=1)) * longest
    return lengths * terms * _UNIT_ROUNDOFF / (1 - terms * _UNIT_ROUNDOFF) + terms * np.finfo(np.float32).tiny


def _matrices(queries: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = []
    for name, values in (("queries", queries), ("gallery", gallery)):
        matrix = np.ascontiguousarray(values, dtype=np.float32)
        if matrix.ndim != 2 or matrix.shape[1] == 0:
            raise DataError(f"{name} must be a matrix with one vector a row, not of shape {matrix.shape}")
        bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if len(bad):
            raise DataError(f"{name} row {bad[0]} holds NaN or infinite values ({len(bad)} such rows): cannot rank")
        both.append(matrix)
    if not len(both[1]):
        raise DataError("the gallery is empty: there is nothing to rank")
    if both[0].shape[1] != both[1].shape[1]:
        raise DataError(f"queries have {both[0].shape[1]} dimensions and the gallery {both[1].shape[1]}")
    return both[0], both[1]


def _excluded_pairs(
    exclude: Sequence[Collection[int]] | None, queries: int, gallery: int
) -> tuple[np.ndarray, np.ndarray]:
    if exclude is None:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return _flat_pairs(exclude, queries, gallery, "exclude")


def _flat_pairs(
    lists: Sequence[Collection[int]], queries: int, gallery: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Lists of positions as two flat int64 arrays: the query and the gallery position of each entry."""
    if len(lists) != queries:
        raise DataError(f"{name} has {len(lists)} entries for {queries} queries")
    owners = np.repeat(np.arange(queries), [len(row) for row in lists])
    columns = np.fromiter((int(column) for row in lists for column in row), dtype=np.int64)
    outside = np.flatnonzero((columns < 0) | (columns >= gallery))
    if len(outside):
        where = outside[0]
        raise DataError(f"{name} of query {owners[where]}: {columns[where]} is no position in a gallery of {gallery}")
    return owners, columns
