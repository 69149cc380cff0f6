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

import numpy as np

from ..data.filters import Filter
from ..errors import DataError
from ..files import atomic_folder
from ..store.exact import Answer, Pairs, exact, named, ordered
from ..store.gallery import StoreGallery
from ..store.vector_store import BLOCK_ROWS, VectorStore
from .effort import BASE, Effort
from .engines import Engine, new_engine, open_engine
from .files import CARD_FILE, REBUILD, check_files, check_store, read_index_settings, write_settings
from .fill import fill
from .jpq.engine import Tuned
from .kinds import KINDS, written_name
from .limits import Limits

WALKED = 32
"""Rows that an index compares, about, for each that is asked of it: comparing all may be less."""
_DEEPER = 4  # times as many rows are asked for where too few of them may answer


class Index(StoreGallery):
    """A store behind a FAISS index, as a `Gallery`.

    Rows that are added go to the store: they are compared exactly until `update` takes them into the index. Rows that
    are removed from the store are no answers from then on.

    Attributes:
        kind_name, kind: what FAISS was asked to build, of `kinds.KINDS`.
        setting: of the kind's knob, chosen for the recall that was asked; may be changed.
        rerank: for compressed kinds, how many times k candidates are scored again by the full vectors; may be changed.
        effort: how both grow with k, and where much is filtered.
        card: what was measured when the index was built.
    """

    def __init__(self, folder: Path, store: VectorStore, engine: Engine, settings: Mapping[str, Any]):
        """Use `open`, or `build_index`."""
        super().__init__(store)
        self.folder = folder
        self._hold(engine)
        self.kind_name = written_name(settings)
        self.kind = KINDS[self.kind_name]
        self.setting: int = settings["setting"]
        self.rerank: int = settings["rerank"]
        measured = settings.get("deeper", {BASE: (self.setting, self.rerank)})  # older indexes know no other
        self.effort = Effort({int(depth): tuple(chosen) for depth, chosen in measured.items()})
        self.card: dict[str, Any] = settings.get("card", {})

    @classmethod
    def open(cls, folder: str | os.PathLike[str], store: VectorStore | None = None, *, verify: bool = True) -> Index:
        """Open an index; its files are mapped, and read as they are needed.

        Args:
            folder: what `build_index` wrote.
            store: the store; by default where it was, seen from the index, when it was built.
            verify: compare the files with their checksums, which reads all of them, and the store's as they are read;
                False is for who cannot pay for that and knows that nobody else writes there: FAISS is made to read what
                it wrote, and nothing else.

        Raises:
            DataError: the folder is no index, is damaged, or was built of another store.
        """
        path = Path(folder)
        settings = read_index_settings(path)
        kind = KINDS[written_name(settings)]
        store = store or _store_of(path, settings, verify)
        check_store(path, settings, store)
        if verify:  # FAISS must not parse what it did not write
            check_files(path, settings)
        engine = open_engine(kind, store.dimension, path, False)
        if len(engine) != settings["rows"]:
            raise DataError(f"{path} has {len(engine):,} rows, not {settings['rows']:,}: {REBUILD}")
        return cls(path, store, engine, settings)

    def _hold(self, engine: Engine) -> None:
        self.engine = engine
        if isinstance(engine, Tuned):  # a row's score is that of its code, however the search comes by it
            self.rows = engine.rows(self.store)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What made the vectors of the store, and of tuned codes what their queries must have been tuned with."""
        tied = self.engine.quantizer.provenance if isinstance(self.engine, Tuned) else {}
        return {**super().provenance, **tied}

    def verify(self) -> None:
        """Read all of the index, and raise DataError naming the first file that is not what was written."""
        settings = read_index_settings(self.folder)
        check_store(self.folder, settings, self.store)
        check_files(self.folder, settings)

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
        where: Filter | None = None,
    ) -> list[Answer]:
        """Return the best k rows for each query, or nearly: as many as may answer, of which some may not be the best.

        Where few may answer, or many are asked for, the search is exact.

        Args:
            queries: [Q, D] float32 of unit length.
            k: answers a query; fewer come back only where fewer may answer.
            allow: only these ids may answer; all by default.
            exclude: for each query the ids that may not.
            where: only rows that fit it may answer, those of `allow` too; all by default.

        Raises:
            DataError: as `Gallery.nearest`.
        """
        may, pairs = self._limits(queries, k, allow, exclude, where)
        limits = Limits(len(self.engine), may, pairs)
        queries, k = np.ascontiguousarray(queries, np.float32), min(k, len(self.store))
        found = self._inside(queries, k, limits)
        return named(self.store.ids, *self._with_later(found, queries, k, may, pairs))

    def search(self, queries: np.ndarray, k: int, setting: int, rerank: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what is found with these settings, however many that is, of rows that are alive.

        Args:
            queries: [Q, D] float32.
            k: answers a query.
            setting: of the kind's knob.
            rerank: for compressed kinds, how many times k candidates are scored again by the full vectors.

        Returns:
            scores [Q, k] floats, -inf where there is no answer; row numbers [Q, k] int64, -1 there.
        """
        may, pairs = self._limits(queries, k, None, None, None)
        found = Limits(len(self.engine), may, pairs).best(*self._nearest_inside(queries, k, setting, rerank), k)
        return self._with_later(found, queries, k, may, pairs)

    def _inside(self, queries: np.ndarray, k: int, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
        """Return the best of the rows that are in the index, k or as many as there are, as `search`."""
        k, left = min(k, len(self.engine)), limits.left(len(queries))
        wanted, depth = np.minimum(k, left), limits.depth(max(k, BASE), left)
        scores, rows = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1, np.int64)
        pending = np.flatnonzero(wanted)
        while len(pending) and depth * WALKED < left[pending].max():
            effort = self.effort.at(depth, self.setting, self.rerank, self.engine.most)
            found = self._nearest_inside(queries[pending], depth, *effort)
            here = limits.of(pending, len(queries))
            # no row that may answer is nearer than the last of these: what is left of them is right, if it is enough
            scores[pending], rows[pending] = here.best(*found, k)
            pending, depth = pending[~here.enough(found[1], wanted[pending])], depth * _DEEPER
        if len(pending):
            inside = limits.mask(len(self.store))
            right, places = exact(self.rows, queries[pending], k, inside, limits.of(pending, len(queries)).pairs)
            scores[pending, : right.shape[1]], rows[pending, : right.shape[1]] = right, places
        return scores, rows

    def _nearest_inside(
        self, queries: np.ndarray, depth: int, setting: int, rerank: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best `depth` rows of the index, whatever may answer, removed ones too, as `search`."""
        count = min(depth * (rerank if self.kind.compressed else 1), len(self.engine))
        scores, rows = self.engine.search(queries, count, setting)
        if self.kind.compressed:
            scores = _rescored(self.store, queries, rows)
        return ordered(np.where(rows < 0, -np.inf, scores), rows, depth)

    def _with_later(
        self,
        found: tuple[np.ndarray, np.ndarray],
        queries: np.ndarray,
        k: int,
        may: np.ndarray | None,
        pairs: Pairs,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best k of what was found in the index and of the rows that the store has got since."""
        inside = len(self.engine)
        if inside == len(self.store):
            return found
        later = np.arange(len(self.store)) >= inside
        more = exact(self.rows, queries, k, later if may is None else later & may, pairs)
        scores, rows = (np.concatenate(pair, axis=1) for pair in zip(found, more, strict=True))
        return ordered(scores, rows, k)

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
            if (self.folder / CARD_FILE).is_file():
                shutil.copy2(self.folder / CARD_FILE, folder / CARD_FILE)
            write_settings(folder, self.folder, self.store, settings)
        self._hold(open_engine(self.kind, self.dimension, self.folder, False))
        return new

    def _write_grown(self, folder: Path, files: Iterable[str]) -> None:
        """Write a copy of the index, which is these files, with the rows that it has not got."""
        for name in files:
            shutil.copy2(self.folder / name, folder / name)
        engine = open_engine(self.kind, self.dimension, folder, True)
        for start in range(len(engine), len(self.store), BLOCK_ROWS):
            engine.add(self.store.rows(start, start + BLOCK_ROWS))
        engine.save()


def _store_of(path: Path, settings: Mapping[str, Any], verify: bool) -> VectorStore:
    """Open the store of the index at `path`. Raises DataError where it is not there any more, or damaged."""
    home = Path(os.path.normpath(path / settings["store"]))
    if not home.exists():
        raise DataError(f"{path} belongs to the store {home}, which is not there: move both together, or {REBUILD}")
    return VectorStore.open(home, verify=verify)


def _rescored(store: VectorStore, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the cosines [Q, C] float32 of the candidates [Q, C] int64 by the full vectors; each row is read once."""
    different, place = np.unique(rows, return_inverse=True)
    vectors = store.take(np.maximum(different, 0))
    place = place.reshape(rows.shape)
    return np.stack([vectors[at] @ query for at, query in zip(place, queries, strict=True)])
