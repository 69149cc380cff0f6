"""Which rows of an index may answer, and how deep to look for enough of them.

FAISS is asked for the best rows whatever may answer, and what may not is dropped: as long as enough is left, no row
that may answer can be nearer, however much what is asked has to do with what is allowed. A search that passes over rows
while it walks finds less in that case. What an index misses are mostly the last of many: where much was dropped, what
is left would be those, so that more are asked for than would do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..store.exact import Pairs

_SPREAD = 3  # deviations beyond the mean: so many more are asked for than may be dropped by chance
_BEHIND = 0.5  # rows that must come behind those that are left, for each that was dropped before them


@dataclass(frozen=True)
class Limits:
    """What may answer, of the first rows of a store.

    Args:
        rows: how many they are.
        may: [N] bool, which rows of the store may answer; None for all.
        pairs: queries and rows of the store that may not answer them.
    """

    rows: int
    may: np.ndarray | None
    pairs: Pairs

    @cached_property
    def count(self) -> int:
        """The number of rows that may answer."""
        return self.rows if self.may is None else int(np.count_nonzero(self.may[: self.rows]))

    def left(self, queries: int) -> np.ndarray:
        """Return how many rows may answer each query: [Q] int64."""
        owners, numbers = self.pairs
        if not len(owners):
            return np.full(queries, self.count)
        known = numbers < self.rows
        if self.may is not None:
            known &= self.may[numbers]
        pairs = np.unique(owners[known] * self.rows + numbers[known])  # an id may be given twice
        return self.count - np.bincount(pairs // self.rows, minlength=queries)

    def depth(self, k: int, left: np.ndarray) -> int:
        """Return how many rows to ask FAISS for, so that probably k remain of them for every query.

        Args:
            k: answers a query.
            left: [Q] int64 as of `left`.
        """
        if not self.count:
            return k
        share = self.count / self.rows
        depth = k / share + _SPREAD * (k * (1 - share)) ** 0.5 / share
        # what is excluded for one query is mostly what stood first in its answers
        excluded = min(self.count - left.min(initial=self.count), _SPREAD * depth)
        return int(np.ceil(depth + (1 + _BEHIND) * excluded))

    def of(self, queries: np.ndarray, count: int) -> Limits:
        """Return the limits of some of `count` queries, [q] int64 ascending, which are numbered anew."""
        owners, numbers = self.pairs
        if not len(owners) or len(queries) == count:
            return self
        mine = np.isin(owners, queries)
        return Limits(self.rows, self.may, (np.searchsorted(queries, owners[mine]), numbers[mine]))

    def best(self, scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the first k that may answer, of sorted scores [Q, C] and rows [Q, C]; -inf and -1 are none."""
        if self.may is None and not len(self.pairs[0]):
            return scores[:, :k], rows[:, :k]
        rows = self._without(rows)
        order = np.argsort(rows < 0, axis=1, kind="stable")[:, :k]
        queries = np.arange(len(rows))[:, None]
        rows = rows[queries, order]
        return np.where(rows < 0, -np.inf, scores[queries, order]), rows

    def enough(self, rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Tell for which queries rows [Q, C], sorted, hold so many [Q] that may answer and that none is missed: [Q]."""
        left = self._without(rows) >= 0
        last = np.argmax(np.cumsum(left, axis=1) >= wanted[:, None], axis=1)  # the place of the last that is wanted
        behind = rows.shape[1] - 1 - last
        return (left.sum(axis=1) >= wanted) & (behind >= _BEHIND * (last + 1 - wanted))

    def _without(self, rows: np.ndarray) -> np.ndarray:
        """Return row numbers [Q, C] int64 with -1 in the place of those that may not answer."""
        if self.may is not None:
            rows = np.where(self.may[rows], rows, -1)
        owners, numbers = self.pairs
        if not len(owners):
            return rows
        keys = np.arange(len(rows))[:, None] * self.rows + rows
        inside = numbers < self.rows
        return np.where(np.isin(keys, owners[inside] * self.rows + numbers[inside]), -1, rows)

    def mask(self, rows: int) -> np.ndarray | None:
        """Return which of all `rows` of the store are among the first ones and may answer: [N] bool, None for all."""
        if rows == self.rows:
            return self.may
        first = np.arange(rows) < self.rows
        return first if self.may is None else first & self.may
