"""How many rows come before a target: what a fast product leaves open is settled by the scores themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .matrix import Matrix, scores_of, slack

_BLOCK_VALUES = 1 << 23  # float32 products at a time: 32 MB
_SEVERAL = 4  # targets of a query, from which on its products are sorted once in place of a look for each


def counts_before(
    asked: Matrix, found: Matrix, owners: np.ndarray, wanted: np.ndarray, excluded: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return how many rows come before each target under the three rules of `TargetRanks`, [3, M] int64.

    Args:
        asked, found: queries and gallery.
        owners: [M] int64 ascending, the query of each target.
        wanted: [M] int64, its gallery position; none of them is excluded.
        excluded: pairs of a query and a gallery position that does not take part, as two int64 arrays.
    """
    counts = np.empty((3, len(owners)), dtype=np.int64)
    bound = slack(asked, found)
    order = np.argsort(excluded[0], kind="stable")
    rows, columns = excluded[0][order], excluded[1][order]
    for part, queries in _blocks(owners, max(1, _BLOCK_VALUES // len(found))):
        fast = asked.values[queries] @ found.values.T
        out = slice(*np.searchsorted(rows, [queries[0], queries[-1] + 1]))
        asks = np.isin(rows[out], queries)
        fast[np.searchsorted(queries, rows[out][asks]), columns[out][asks]] = -np.inf
        own = scores_of(asked, found, owners[part], wanted[part])
        certain, pair, column = _compared(fast, np.searchsorted(queries, owners[part]), own, bound[owners[part]])
        owner = owners[part][pair]
        exact = scores_of(asked, found, owner, column)
        right = np.isin(owner * len(found) + column, owners[part] * len(found) + wanted[part])
        close = ahead(exact, own[pair], column, wanted[part][pair], right)
        counts[:, part] = [certain + np.bincount(pair[row], minlength=len(own)) for row in close]
    return counts


def ahead(
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


def _blocks(owners: np.ndarray, height: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the targets of up to `height` queries as a slice, and these queries in order."""
    queries, starts = np.unique(owners, return_index=True)
    ends = np.append(starts, len(owners))
    for at in range(0, len(queries), height):
        last = min(at + height, len(queries))
        yield slice(int(ends[at]), int(ends[last])), queries[at:last]


def _compared(
    fast: np.ndarray, places: np.ndarray, own: np.ndarray, margin: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare targets with all fast products [Q, N] float32 of their queries.

    A product may be off by the margin either way: beyond it the order is certain, within it scores decide.

    Args:
        fast: products by query.
        places: [M] int64 ascending, the row of each target's query.
        own, margin: [M], each target's score and how far a product may be off it.

    Returns:
        How many rows are certainly ahead [M] int64, and the pairs that are open: targets [P] and columns [P] int64.
    """
    high, low = own.astype(np.float64) + margin, own.astype(np.float64) - margin
    certain = np.empty(len(own), dtype=np.int64)
    pairs, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    rows, starts = np.unique(places, return_index=True)
    for row, first, end in zip(rows, starts, np.append(starts, len(places))[1:], strict=True):
        mine = slice(first, end)
        certain[mine], reached = _passed(fast[row], high[mine], low[mine])
        # a target is within its own margin, and open only where another row is as well
        for target in first + np.flatnonzero(reached - certain[mine] > 1):
            near = np.flatnonzero((fast[row] <= high[target]) & (fast[row] >= low[target]))
            pairs.append(np.full(len(near), target))
            columns.append(near)
    return certain, np.concatenate(pairs), np.concatenate(columns)


def _passed(products: np.ndarray, high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many products [N] lie above each of `high` [T], and how many not below each of `low` [T]."""
    if len(high) < _SEVERAL:
        above = [np.count_nonzero(products > value) for value in high]
        return np.array(above), np.array([np.count_nonzero(products >= value) for value in low])
    ranked = np.sort(products)
    size = len(products)
    return size - np.searchsorted(ranked, high, "right"), size - np.searchsorted(ranked, low, "left")
