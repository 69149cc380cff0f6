"""Exact ranking by inner product: fast products find the candidates, one score settles the order.

FAISS, a BLAS product and the same product of fewer queries give scores that differ in the last bit, and FAISS returns
equal scores with the higher id first. Neither may decide a reported number. So the score of a pair is defined once, by
`matrix.scores_of`, as the float32 nearest to its float64 inner product. Fast float32 products only tell which pairs are
certainly above or below (their rounding error has a bound, `matrix.slack`); pairs too close to call are scored again by
the definition. The order is (-score, gallery position), so `top_k` equals a stable sort of all scores and
`ranks_of_targets` agrees with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter

import numpy as np

from ..errors import DataError
from .best import Best
from .counting import ahead, counts_before
from .matrix import Matrix, check_pair, scores_of

_BLOCK_PAIRS = 1 << 20  # candidates scored one by one at a time
_MANY = 64  # candidates, from which on a product of matrices is faster than pairs
_RULES = ("gallery", "optimistic", "pessimistic")
_NO_RANKS = np.empty(0, dtype=np.int64)


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

    @classmethod
    def joined(cls, parts: Sequence[TargetRanks]) -> TargetRanks:
        """Return the ranks of several lists of queries, one after the other."""
        return cls(*(list(chain.from_iterable(map(attrgetter(rule), parts))) for rule in _RULES))


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
    return _ranks(asked, found, targets, exclude)


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
    _check_lists(candidates, len(asked), "candidates")
    _check_lists(targets, len(asked), "targets")
    ranks: dict[str, list[np.ndarray]] = {rule: [_NO_RANKS] * len(asked) for rule in _RULES}
    for mine, columns in _choices(candidates, len(found)):
        own = [targets[number] for number in mine]
        if columns is None:
            part = _ranks_in_pairs(asked[mine], found, own, [candidates[number] for number in mine], mine)
        else:
            part = _ranks(asked[mine], found[_run_of(columns)], _local(own, columns, mine), None)
        for rule in _RULES:
            for number, row in zip(mine.tolist(), getattr(part, rule), strict=True):
                ranks[rule][number] = row
    return TargetRanks(**ranks)


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
    _check_lists(candidates, len(asked), "candidates")
    scores = np.full((len(asked), k), -np.inf, dtype=np.float32)
    indices = np.full((len(asked), k), -1, dtype=np.int64)
    for mine, columns in _choices(candidates, len(found)):
        if columns is None:
            part = _top_in_pairs(asked[mine], found, k, [candidates[number] for number in mine], mine)
        else:
            best = Best(asked[mine], min(k, len(columns)), _excluded_pairs(None, len(mine), len(columns)))
            best.see(found[_run_of(columns)], columns)
            part = best.result()
        width = part[0].shape[1]
        scores[mine, :width], indices[mine, :width] = part
    return scores, indices


def _choices(candidates: Sequence[Sequence[int]], gallery: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield queries [M] that are ranked together, and the gallery positions [C], in order, that all choose from.

    Long lists are ranked as galleries of their own, once for all queries that share one: the same list, that is, and
    not an equal one. Short ones are looked at pair by pair, and so is a list that names a candidate twice: None.
    """
    # held together: a matrix gives a row anew each time, and what is gone leaves its id to another
    rows = list(candidates)
    shared: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        shared.setdefault(id(row), []).append(number)
    pairs: list[int] = []
    for mine in shared.values():
        row = rows[mine[0]]
        columns = _in_order(row, gallery) if len(row) >= _MANY else None
        if columns is None:
            pairs += mine
        else:
            yield np.array(mine), columns
    yield from ((block, None) for block in _blocks(np.array(sorted(pairs), dtype=np.int64), candidates))


def _in_order(row: Sequence[int], gallery: int) -> np.ndarray | None:
    """Return a list's positions [C] int64 in order; None where one stands twice or lies outside the gallery."""
    columns = np.unique(np.fromiter(row, dtype=np.int64, count=len(row)))
    return columns if len(columns) == len(row) and columns[0] >= 0 and columns[-1] < gallery else None


def _run_of(columns: np.ndarray) -> np.ndarray | slice:
    """Return positions as a slice where they follow one another, which copies no vector."""
    first, last = int(columns[0]), int(columns[-1])
    return slice(first, last + 1) if last - first + 1 == len(columns) else columns


def _blocks(numbers: np.ndarray, lists: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
    """Yield queries in blocks whose lists hold no more than `_BLOCK_PAIRS` entries together, but one at least."""
    ends = np.cumsum([len(lists[number]) for number in numbers]) // _BLOCK_PAIRS
    yield from (block for block in np.split(numbers, np.flatnonzero(np.diff(ends)) + 1) if len(block))


def _local(targets: Sequence[Sequence[int]], columns: np.ndarray, queries: np.ndarray) -> list[list[int]]:
    """Return targets as places in `columns`. Raises DataError for one that is not there."""
    places = []
    for query, row in zip(queries.tolist(), targets, strict=True):
        wanted = np.fromiter(row, dtype=np.int64, count=len(row))
        at = np.minimum(np.searchsorted(columns, wanted), len(columns) - 1)
        _check_found(query, wanted[columns[at] != wanted])
        places.append(at.tolist())
    return places


def _check_found(query: int, without: np.ndarray) -> None:
    if len(without):
        raise DataError(f"query {query}: its target {without[0]} is not one of its candidates")


def _ranks(
    asked: Matrix, found: Matrix, targets: Sequence[Sequence[int]], exclude: Sequence[Collection[int]] | None
) -> TargetRanks:
    """Return the ranks of targets among all rows but those excluded; as `ranks_of_targets`, of checked matrices."""
    rows, columns = _excluded_pairs(exclude, len(asked), len(found))
    owners, wanted = _flat_pairs(targets, len(asked), len(found), "targets")
    keys = owners * len(found) + wanted
    without = np.flatnonzero(np.isin(keys, rows * len(found) + columns))
    if len(without):
        raise DataError(f"query {owners[without[0]]}: its target {wanted[without[0]]} is excluded and has no rank")
    counts = counts_before(asked, found, owners, wanted, (rows, columns))
    return TargetRanks.of([len(row) for row in targets], counts)


def _ranks_in_pairs(
    asked: Matrix,
    found: Matrix,
    targets: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[int]],
    numbers: np.ndarray,
) -> TargetRanks:
    """Return the ranks of targets among candidates, each of which is scored; `numbers` [Q] name queries in errors."""
    rows, columns = _flat_pairs(candidates, len(asked), len(found), "candidates", numbers)
    owners, wanted = _flat_pairs(targets, len(asked), len(found), "targets", numbers)
    keys = owners * len(found) + wanted
    without = np.flatnonzero(~np.isin(keys, rows * len(found) + columns))
    if len(without):
        _check_found(int(numbers[owners[without[0]]]), wanted[without])
    own, scores = scores_of(asked, found, owners, wanted), scores_of(asked, found, rows, columns)
    # every target meets every candidate of its query: rows are sorted by query, so these stand in one slice each
    sizes = np.bincount(rows, minlength=len(asked))
    pair = np.repeat(np.arange(len(owners)), sizes[owners])
    first = np.concatenate([[0], np.cumsum(sizes)])[owners]
    place = np.arange(len(pair)) - np.repeat(np.cumsum(sizes[owners]) - sizes[owners], sizes[owners]) + first[pair]
    other = np.isin(rows[place] * len(found) + columns[place], keys)
    before = ahead(scores[place], own[pair], columns[place], wanted[pair], other)
    counts = np.stack([np.bincount(pair[row], minlength=len(owners)) for row in before])
    return TargetRanks.of([len(row) for row in targets], counts)


def _top_in_pairs(
    asked: Matrix, found: Matrix, k: int, candidates: Sequence[Sequence[int]], numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `top_among` does, of candidates each of which is scored; `numbers` as in `_ranks_in_pairs`."""
    rows, columns = _flat_pairs(candidates, len(asked), len(found), "candidates", numbers)
    sizes = np.bincount(rows, minlength=len(asked))
    places = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    width = max(k, int(sizes.max(initial=0)))
    scores = np.full((len(asked), width), -np.inf, dtype=np.float32)
    indices = np.full((len(asked), width), -1, dtype=np.int64)
    scores[rows, places] = scores_of(asked, found, rows, columns)
    indices[rows, places] = columns
    order = np.lexsort((indices, -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(indices, order, axis=1)


def _check_lists(lists: Sequence[Collection[int]], queries: int, name: str) -> None:
    if len(lists) != queries:
        raise DataError(f"{name} has {len(lists)} entries for {queries} queries")


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
    lists: Sequence[Collection[int]], queries: int, gallery: int, name: str, numbers: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return lists of positions as two flat int64 arrays: the query and the gallery position of each entry.

    `numbers` [Q] name the queries in errors, where they are some of all.
    """
    _check_lists(lists, queries, name)
    owners = np.repeat(np.arange(queries), [len(row) for row in lists])
    columns = np.fromiter((int(column) for row in lists for column in row), dtype=np.int64)
    outside = np.flatnonzero((columns < 0) | (columns >= gallery))
    if len(outside):
        where = outside[0]
        query = owners[where] if numbers is None else numbers[owners[where]]
        raise DataError(f"{name} of query {query}: {columns[where]} is no position in a gallery of {gallery}")
    return owners, columns
