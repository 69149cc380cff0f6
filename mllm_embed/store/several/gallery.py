"""A store of several vectors a row, searched exactly by MaxSim."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ...data.filters import Filter
from ...errors import DataError
from ...vectors.maxsim import maxsim
from ...vectors.multi import MultiVectors
from ..exact import Answer, named, ordered
from ..gallery import StoreGallery
from ..lookup import excluded
from ..vector_store import VectorStore


def keeps_several(store: VectorStore) -> bool:
    """Return whether rows of a store have several vectors each."""
    return any(shard.vectors is not None for shard in store.shards)


_SCORES = 1 << 22  # of queries and a shard's rows in memory at a time


class MultiGallery(StoreGallery):
    """A store of several vectors a row, searched shard by shard: as much memory as one takes in float32."""

    def nearest(  # type: ignore[override]  # who asks it has a model that makes several, as the store's provenance says
        self,
        queries: MultiVectors,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
        where: Filter | None = None,
    ) -> list[Answer]:
        """Return the best k rows for each query by MaxSim, equal ones in row order; all else as `Gallery.nearest`."""
        if exclude is not None and len(exclude) != len(queries):
            raise DataError(f"exclude has {len(exclude)} entries for {len(queries)} queries")
        may, _ = self._limits(queries.values, k, allow, None, where)
        step = max(1, _SCORES // max((entry.rows for entry in self.store.shards), default=1))
        found: list[Answer] = []
        for start in range(0, max(1, len(queries)), step):
            part = range(start, min(start + step, len(queries)))
            found += self._nearest(queries.take(part), k, may, exclude[start : part.stop] if exclude else None)
        return found

    def _nearest(
        self, queries: MultiVectors, k: int, may: np.ndarray | None, exclude: Sequence[Collection[str]] | None
    ) -> list[Answer]:
        askers, never = excluded(self.store.positions, exclude)
        scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        end = 0
        for shard, entry in enumerate(self.store.shards):
            first, end, block = end, end + entry.rows, self.store.several(shard)
            found = maxsim(queries, block)
            if may is not None:
                found[:, ~may[first:end]] = -np.inf
            inside = (never >= first) & (never < end)
            found[askers[inside], never[inside] - first] = -np.inf
            numbers = np.where(np.isneginf(found), -1, np.arange(first, end))
            scores, rows = ordered(np.concatenate([scores, found], 1), np.concatenate([rows, numbers], 1), k)
        return named(self.store.ids, scores, rows)
