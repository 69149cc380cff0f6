"""Answers to other questions on the same picture: what only the instruction tells from the right one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Siblings:
    """Which gallery places answer some question on the pictures that a query shows.

    Args:
        shown: [Q] int64, what each query's pictures hold as one number, 0 where it shows none.
        keys, places: [R] int64 each, no pair twice, sorted by key: what the query of some row shows, and the gallery
            place of its positive.
    """

    shown: np.ndarray
    keys: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, positive: np.ndarray, queries: np.ndarray) -> Siblings:
        """Return the siblings in rows that show `rows` [R] int64 and whose positive is `positive` [R], for queries that
        show `queries` [Q]."""
        pairs = np.unique(np.stack([rows, positive], 1)[rows != 0], axis=0)
        return cls(queries, *pairs.T)

    def only(self, chosen: np.ndarray) -> Siblings:
        """Return those of some queries, [q] int64."""
        return replace(self, shown=self.shown[chosen])

    def renumbered(self, place: np.ndarray) -> Siblings:
        """Return the same where gallery place n is now `place[n]`, -1 for gone."""
        now = place[self.places]
        return replace(self, keys=self.keys[now >= 0], places=now[now >= 0])

    def nearest(
        self, part: slice, queries: np.ndarray, gallery: np.ndarray, right: Sequence[Collection[int]], depth: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest siblings, `depth` at most, of the queries of a part, without what is right for them.

        Args:
            part: of the Q queries, q of them.
            queries, gallery: [Q, D] and [N, D] float32 of unit length.
            right: for each query of the part the places of what is right.

        Returns scores [q, S] float32 and places [q, S] int64, -inf and -1 past the end.
        """
        shown = self.shown[part]
        low, high = (np.searchsorted(self.keys, shown, side=side) for side in ("left", "right"))
        most = min(depth, int((high - low).max(initial=0)))
        scores, places = np.full((len(shown), most), -np.inf, np.float32), np.full((len(shown), most), -1)
        for number, known in enumerate(right):
            own = np.setdiff1d(self.places[low[number] : high[number]], list(known))
            near = gallery[own] @ queries[part.start + number]
            order = np.argsort(-near, kind="stable")[:depth]
            scores[number, : len(order)], places[number, : len(order)] = near[order], own[order]
        return scores, places
