"""An index of a store: finds nearly what an exact search finds, in a fraction of the time or of the memory.

    INDEX/index.faiss    what FAISS built (and lists.ivfdata, projection.npy where the kind has them)
    INDEX/index.json     kind, settings, the store it belongs to, sha256 of the files, and its measured card
    INDEX/card.md        the card to read

Row numbers are the store's. Rows that were removed from the store since are never answers, and rows that were added are
compared exactly until `update` takes them in: what the index answers fits the store as it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ..errors import DataError
from ..files import atomic_folder
from ..store.files import sha256_of
from ..store.gallery import Answer, StoreGallery, allowed_rows, exact, excluded_rows, merged, named
from ..store.vector_store import BLOCK_ROWS, VectorStore
from .engines import Engine, new_engine, open_engine
from .files import CARD_FILE, REBUILD, check_store, read_index_settings, write_settings
from .fill import fill
from .kinds import KINDS, current_name

_FEW = 100_000  # allowed rows that are compared exactly, which is quick, and exact


class Index(StoreGallery):
    """A store behind a FAISS index, as a `Gallery`.

    Rows that are added go to the store: they are compared exactly until `update` takes them into the index. Rows that
    are removed from the store are no answers from then on.

    Attributes:
        kind_name, kind: what FAISS was asked to build, of `kinds.KINDS`.
        setting: of the kind's knob, chosen for the recall that was asked; may be changed.
        rerank: for compressed kinds, how many times k candidates are scored again by the full vectors; may be changed.
        card: what was measured when the index was built.
    """

    def __init__(self, folder: Path, store: VectorStore, engine: Engine, settings: Mapping[str, Any]):
        """Use `open`, or `build_index`."""
        super().__init__(store)
        self.folder, self.engine = folder, engine
        self.kind_name = current_name(settings["kind"])
        self.kind = KINDS[self.kind_name]
        self.setting: int = settings["setting"]
        self.rerank: int = settings["rerank"]
        self.card: dict[str, Any] = settings.get("card", {})

    @classmethod
    def open(cls, folder: str | os.PathLike[str], store: VectorStore | None = None) -> Index:
        """Open an index; its files are mapped, and read as they are needed.

        Args:
            folder: what `build_index` wrote.
            store: the store; by default where it was, seen from the index, when it was built.

        Raises:
            DataError: the folder is no index, is damaged, or was built of another store.
        """
        path = Path(folder)
        settings = read_index_settings(path)
        store = store or VectorStore.open(os.path.normpath(path / settings["store"]))
        check_store(path, settings, store)
        for name, digest in settings["files"].items():
            if sha256_of(path / name) != digest:  # FAISS must not parse what it did not write
                raise DataError(f"{path / name} is not what was written: {REBUILD}")
        kind = KINDS[current_name(settings["kind"])]
        return cls(path, store, open_engine(kind, store.dimension, path, False), settings)

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> list[Answer]:
        """Return the best k rows for each query, or nearly: what the index misses is missing.

        A search among at most 100,000 allowed rows is exact.

        Args:
            queries: [Q, D] float32 of unit length.
            k: answers a query; fewer come back where fewer may answer.
            allow: only these ids may answer; all by default.
            exclude: for each query the ids that may not.

        Raises:
            DataError: an id that is not there, k < 1, or queries of another length or with NaN.
        """
        excluded = excluded_rows(self.store, queries, k, exclude)
        queries = np.ascontiguousarray(queries, np.float32)
        allowed = None if allow is None else allowed_rows(self.store, allow)
        if allowed is not None and len(allowed) <= _FEW:
            scores, rows = exact(self.store, queries, k, allowed, excluded)
        else:
            scores, rows = self.search(queries, k, self.setting, self.rerank, allowed, excluded)
        return named(self.store.ids, scores, rows)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        setting: int,
        rerank: int,
        allowed: np.ndarray | None = None,
        exclude: Sequence[Collection[int]] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best k rows for each query, with other settings than the index' own.

        Args:
            queries: [Q, D] float32.
            k: answers a query.
            setting: of the kind's knob.
            rerank: for compressed kinds, how many times k candidates are scored again by the full vectors.
            allowed: [R] int64 rows that may answer, None for all.
            exclude: for each query rows that may not.

        Returns:
            scores [Q, k] floats, -inf where there is no answer; row numbers [Q, k] int64, -1 there.
        """
        # as many candidates more as the most that a query excludes: FAISS knows none that hold for one query alone
        longest = max((len(rows) for rows in exclude), default=0)
        count = min((k + longest) * (rerank if self.kind.compressed else 1), len(self.engine))
        selector = _selector(self.store, len(self.engine), allowed)
        # removed rows are still in the index: the selector keeps them from taking the place of answers
        scores, rows = self.engine.search(queries, count, setting, selector) if count else _nothing(queries)
        if self.kind.compressed:
            scores = _rescored(self.store, queries, rows)
        found = _without(scores, rows, exclude)
        later = self._not_yet_in(allowed)
        more = exact(self.store, queries, k, later, exclude or [()] * len(queries)) if len(later) else _nothing(queries)
        return merged(found, more, k)

    def update(self) -> int:
        """Take in the rows that were added to the store since, and return how many.

        The old index stays whole until the new one takes its place.
        """
        new = len(self.store) - len(self.engine)
        if not new:
            return 0
        settings = read_index_settings(self.folder)
        with atomic_folder(self.folder) as folder:
            if self.kind.on_disk:  # whose lists are packed as close as they come: there is no room to add to
                fill(self.store, new_engine(self.kind, len(self.store), self.dimension, folder), settings["seed"], None)
            else:
                self._write_grown(folder, settings["files"])
            shutil.copy2(self.folder / CARD_FILE, folder / CARD_FILE)
            write_settings(folder, self.folder, self.store, settings)
        self.engine = open_engine(self.kind, self.dimension, self.folder, False)
        return new

    def _write_grown(self, folder: Path, files: Iterable[str]) -> None:
        """Write a copy of the index, which is these files, with the rows that it has not got."""
        for name in files:
            shutil.copy2(self.folder / name, folder / name)
        engine = open_engine(self.kind, self.dimension, folder, True)
        for start in range(len(engine), len(self.store), BLOCK_ROWS):
            engine.add(self.store.rows(start, start + BLOCK_ROWS))
        engine.save()

    def _not_yet_in(self, allowed: np.ndarray | None) -> np.ndarray:
        """Return the rows [R] int64 that were added to the store since the index was built, and that may answer."""
        rows = np.arange(len(self.engine), len(self.store))
        rows = rows[self.store.alive[rows]] if len(rows) else rows
        return rows if allowed is None else rows[np.isin(rows, allowed)]


def _selector(store: VectorStore, rows: int, allowed: np.ndarray | None) -> Any:
    """Return the rows of an index that may answer as a faiss.IDSelector, None for all."""
    alive = store.alive[:rows]
    if allowed is not None:
        mask = np.zeros(rows, bool)
        mask[allowed[allowed < rows]] = True
        alive &= mask
    if alive.all():
        return None
    return faiss.IDSelectorBitmap(np.packbits(alive, bitorder="little"))


def _rescored(store: VectorStore, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the cosines [Q, C] float32 of the candidates [Q, C] int64 by the full vectors; each row is read once."""
    different, place = np.unique(rows, return_inverse=True)
    vectors = store.take(np.maximum(different, 0))
    place = place.reshape(rows.shape)
    return np.stack([vectors[at] @ query for at, query in zip(place, queries, strict=True)])


def _without(scores: np.ndarray, rows: np.ndarray, exclude: Sequence[Collection[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return candidates, scores [Q, C] and rows [Q, C], with what may not answer and what is none as -inf and -1."""
    scores = np.where(rows < 0, -np.inf, scores)
    for at, excluded in enumerate(exclude):
        if excluded:
            gone = np.isin(rows[at], list(excluded))
            scores[at, gone], rows[at, gone] = -np.inf, -1
    return scores, rows


def _nothing(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
