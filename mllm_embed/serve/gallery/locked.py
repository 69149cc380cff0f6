"""A gallery that is asked by many requests at once: one call at a time, so that none sees rows come or go."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from threading import RLock
from typing import Any

import numpy as np

from ...data.filters import Filter
from ...store.columns import ColumnSummary
from ...store.gallery import Answer, Gallery
from ...types import ImageLike

_FRESH = 30.0


class LockedGallery:
    """A `Gallery` whose calls take turns. Ranking uses all cores by itself, so that little is lost by it."""

    def __init__(self, gallery: Gallery):
        """Guard a gallery; nobody else may hold on to it."""
        self._gallery, self._lock, self.dimension = gallery, RLock(), gallery.dimension
        self._summary: dict[str, ColumnSummary] | None = None
        self._summed = 0.0

    @property
    def provenance(self) -> Mapping[str, Any]:
        """As `Gallery.provenance`."""
        return self._gallery.provenance

    def __len__(self) -> int:
        """As `Gallery.__len__`."""
        with self._lock:
            return len(self._gallery)

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
        where: Filter | None = None,
    ) -> list[Answer]:
        """As `Gallery.nearest`."""
        with self._lock:
            return self._gallery.nearest(queries, k, allow=allow, exclude=exclude, where=where)

    def sources(self, ids: Sequence[str]) -> Sequence[ImageLike | None]:
        """As `Gallery.sources`."""
        with self._lock:
            return self._gallery.sources(ids)

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """As `Gallery.metadata`."""
        with self._lock:
            return self._gallery.metadata(ids)

    def summary(self) -> dict[str, ColumnSummary]:
        """As `Gallery.summary`, as it was `_FRESH` seconds ago at most: a server may have to read all rows for it."""
        with self._lock:
            if self._summary is None or time.monotonic() - self._summed > _FRESH:
                self._summary, self._summed = self._gallery.summary(), time.monotonic()
            return self._summary

    def page(self, offset: int, limit: int, where: Filter | None = None) -> tuple[list[str], int]:
        """As `Gallery.page`."""
        with self._lock:
            return self._gallery.page(offset, limit, where)

    def unknown(self, ids: Collection[str]) -> list[str]:
        """As `Gallery.unknown`."""
        with self._lock:
            return self._gallery.unknown(ids)

    def add(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        sources: Sequence[str | None] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """As `Gallery.add`."""
        with self._lock:
            self._summary = None
            self._gallery.add(ids, vectors, sources, metadata)

    def remove(self, ids: Iterable[str]) -> None:
        """As `Gallery.remove`."""
        with self._lock:
            self._summary = None
            self._gallery.remove(ids)
