"""The best rows of each query, exactly, among rows that are shown block by block.

Fast float32 products only tell which rows cannot be among the best: their rounding error has a bound. What is left is a
few rows a query, scored by the definition of `matrix`.
"""

from __future__ import annotations

import numpy as np

from .matrix import Matrix, check_pair, scores_of, slack

_TOGETHER = 512  # queries whose products fill a core, and whose answers are sorted together
_VALUES = 1 << 22  # products at a time: 16 MB
_CACHED = 1 << 20  # numbers of the rows that several queries meet in turn: 4 MB stay near the core
_ALONE = 8  # queries up to which a product for each is faster than one for all
_LOWEST = np.finfo(np.float32).min / 2  # below any product


class Best:
    """The best k rows of each query among those seen so far; equal scores in order of the rows' numbers."""

    def __init__(self, queries: Matrix, k: int, exclude: tuple[np.ndarray, np.ndarray]):
        """Begin with no rows.

        Args:
            queries: Q vectors.
            k: at least 1.
            exclude: pairs of a query and a row's number that may not come, as two int64 arrays.
        """
        self._queries, self._k, self._parts = queries, k, []
        order = np.argsort(exclude[1], kind="stable")
        owners, never = exclude[0][order], exclude[1][order]
        for at in range(0, len(queries), _TOGETHER):
            mine = (owners >= at) & (owners < at + _TOGETHER)
            self._parts.append(_Part(queries[at : at + _TOGETHER], k, owners[mine] - at, never[mine]))

    def see(self, rows: Matrix, numbers: np.ndarray, may: np.ndarray | None = None) -> None:
        """Look at more rows.

        Args:
            rows: n vectors.
            numbers: [n] int64 ascending, what they are called, beyond those seen before.
            may: [n] bool, which of them may answer; None for all.

        Raises:
            DataError: they are of another length than the queries, or too long.
        """
        check_pair(self._queries, rows)
        for part in self._parts:
            part.see(rows, numbers, may)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scores [Q, k] float32, -inf where there is no row, and the rows' numbers [Q, k] int64, -1 there."""
        found = [part.result() for part in self._parts]
        if not found:
            return np.empty((0, self._k), np.float32), np.empty((0, self._k), np.int64)
        scores, numbers = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return scores, numbers


class _Part:
    """What is found for some of the queries."""

    def __init__(self, queries: Matrix, k: int, owners: np.ndarray, never: np.ndarray):
        self.queries, self.k, self.owners, self.never = queries, k, owners, never
        self.kth = np.full(len(queries), -np.inf)  # the score that a row must reach
        # queries, scores and rows [M], sorted by query and place: the best so far
        self.best = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
        self.places = self.best[0]

    def see(self, rows: Matrix, numbers: np.ndarray, may: np.ndarray | None) -> None:
        """As `Best.see`."""
        bound = slack(self.queries, rows)
        height = _VALUES // len(self.queries)
        for at in range(0, len(rows), height):
            some = slice(at, min(at + height, len(rows)))
            fast = _products(self.queries.values, rows.values[some])
            self._forbid(fast, numbers[some], None if may is None else may[some])
            queries, columns = np.nonzero(self._within_reach(fast, bound))
            if len(queries):
                columns += at
                self._take(queries, scores_of(self.queries, rows, queries, columns), numbers[columns])

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """As `Best.result`."""
        scores = np.full((len(self.queries), self.k), -np.inf, dtype=np.float32)
        numbers = np.full((len(self.queries), self.k), -1, dtype=np.int64)
        queries, found, rows = self.best
        scores[queries, self.places], numbers[queries, self.places] = found, rows
        return scores, numbers

    def _forbid(self, fast: np.ndarray, numbers: np.ndarray, may: np.ndarray | None) -> None:
        """Set the products [q, n] of those pairs to -inf that may not come."""
        if may is not None:
            fast[:, ~may] = -np.inf
        if not len(self.never):
            return
        first, last = np.searchsorted(self.never, numbers[0]), np.searchsorted(self.never, numbers[-1], side="right")
        if first < last:
            owners, never = self.owners[first:last], self.never[first:last]
            at = np.searchsorted(numbers, never)
            here = numbers[at] == never
            fast[owners[here], at[here]] = -np.inf

    def _within_reach(self, fast: np.ndarray, bound: np.ndarray) -> np.ndarray:
        """Tell which of the products [q, n] belong to rows that could be among the best k: [q, n] bool."""
        limit = np.maximum(self.kth - bound, _LOWEST)  # above -inf, which may not come at all
        near = fast >= _below(limit)[:, None]
        if fast.shape[1] > self.k and np.count_nonzero(near) > len(fast) * (2 * self.k + 64):
            # the best of this block alone set a limit too: k of its rows score at least their products less the bound
            place = fast.shape[1] - self.k
            best = np.partition(fast, place, axis=1)[:, place]
            near = fast >= _below(np.maximum(limit, best - 2 * bound))[:, None]
        return near

    def _take(self, queries: np.ndarray, scores: np.ndarray, numbers: np.ndarray) -> None:
        """Sort scored rows [M], of one query after the other and ascending numbers, in among the best."""
        known, good, rows = self.best
        queries, scores = np.concatenate([known, queries]), np.concatenate([good, scores])
        numbers = np.concatenate([rows, numbers])
        # one integer to sort by: the query, then the score, whose bits are in order where their sign is dealt with; the
        # sort is stable, and equal scores stand in order of their numbers already
        bits = (scores + np.float32(0)).view(np.int32)  # -0 as 0
        keys = (queries << 32) - np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
        order = np.argsort(keys, kind="stable")
        queries = queries[order]
        places = np.arange(len(order)) - np.searchsorted(queries, np.arange(len(self.kth)))[queries]
        first = places < self.k
        order, self.places = order[first], places[first]
        self.best = queries[first], scores[order], numbers[order]
        last = self.places == self.k - 1
        self.kth[self.best[0][last]] = self.best[1][last]


def _products(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return fast float32 products [Q, n]."""
    if len(queries) > _ALONE:
        return queries @ rows.T
    out = np.empty((len(queries), len(rows)), np.float32)
    # one query meets each row once, and the threads of a product wait for one another after each
    step = max(1, _CACHED // rows.shape[1]) if len(queries) > 1 else len(rows)
    for at in range(0, len(rows), step):
        part = slice(at, at + step)
        for query, products in zip(queries, out[:, part], strict=True):
            np.matmul(rows[part], query, out=products)
    return out


def _below(limit: np.ndarray) -> np.ndarray:
    """Return float32 numbers that are no greater than these float64 ones."""
    return np.nextafter(limit.astype(np.float32), np.float32(-np.inf))
