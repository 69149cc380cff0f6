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
from ..files import atomic_folder, read_json, write_json
from ..store.files import sha256_of
from ..store.gallery import Answer, allowed_rows, answers, exact, excluded_rows, merged
from ..store.vector_store import SHARD_ROWS, VectorStore
from .engines import Engine, new_engine, open_engine
from .fill import fill
from .kinds import kind_of

FORMAT = "mllm_embed index 1"
SETTINGS_FILE, CARD_FILE = "index.json", "card.md"
_FEW = 100_000  # allowed rows that are compared exactly, which is quick, and exact
_REBUILD = "build the index again"


class Index:
    """A store behind a FAISS index, as a `Gallery`."""

    def __init__(self, folder: Path, store: VectorStore, engine: Engine, told: Mapping[str, Any]):
        """Use `open`, or `build_index`."""
        self.folder, self.store, self.engine = folder, store, engine
        self.kind_name: str = told["kind"]
        self.kind = kind_of(self.kind_name)
        self.setting: int = told["setting"]
        self.rerank: int = told["rerank"]
        self.card: dict[str, Any] = told.get("card", {})
        self.dimension = store.dimension

    @classmethod
    def open(cls, folder: str | os.PathLike[str], store: VectorStore | None = None) -> Index:
        """Open an index; its files are mapped, and read as they are needed.

        Args:
            folder: what `build_index` wrote.
            store: the store; by default where it was, seen from the index, when it was built.

        Raises DataError for a folder that is no index, a damaged one, and a store that is not the one it was built of.
        """
        path = Path(folder)
        told = read_index_settings(path)
        store = store or VectorStore.open(os.path.normpath(path / told["store"]))
        _check_store(path, told, store)
        for name, digest in told["files"].items():
            if sha256_of(path / name) != digest:  # FAISS must not parse what it did not write
                raise DataError(f"{path / name} is not what was written: {_REBUILD}")
        return cls(path, store, open_engine(kind_of(told["kind"]), store.dimension, path, False), told)

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.store.provenance

    def __len__(self) -> int:
        return len(self.store.living)

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> list[Answer]:
        """As `Gallery.nearest`, but for what the index misses."""
        left_out = excluded_rows(self.store, queries, k, exclude)
        queries = np.ascontiguousarray(queries, np.float32)
        allowed = None if allow is None else allowed_rows(self.store, allow)
        if allowed is not None and len(allowed) <= _FEW:
            scores, rows = exact(self.store, queries, k, allowed, left_out)
        else:
            scores, rows = self.search(queries, k, self.setting, self.rerank, allowed, left_out)
        return answers(self.store, scores, rows)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        setting: int,
        rerank: int,
        allowed: np.ndarray | None = None,
        exclude: Sequence[Collection[int]] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `gallery.exact`, with other settings than the index' own.

        Args:
            queries: [Q, D] float32.
            k: answers a query.
            setting: of the kind's knob.
            rerank: for compressed kinds, how many times k candidates are scored again by the full vectors.
            allowed: [R] int64 rows that may answer, None for all.
            exclude: for each query rows that may not.
        """
        longest = max((len(rows) for rows in exclude), default=0)
        count = min((k + longest) * (rerank if self.kind.compressed else 1), len(self.engine))
        selector = _selector(self.store, len(self.engine), allowed)
        scores, rows = self.engine.search(queries, count, setting, selector) if count else _nothing(queries)
        if self.kind.compressed:
            scores = _rescored(self.store, queries, rows)
        scores = np.where(rows < 0, -np.inf, scores)
        for at, left_out in enumerate(exclude):
            if left_out:
                gone = np.isin(rows[at], list(left_out))
                scores[at, gone], rows[at, gone] = -np.inf, -1
        later = self._not_yet_in(allowed)
        if len(later):
            return merged((scores, rows), exact(self.store, queries, k, later, exclude or [()] * len(queries)), k)
        return merged((scores, rows), _nothing(queries), k)

    def sources(self, ids: Sequence[str]) -> list[str | None]:
        return [self.store.sources[self.store.position(name)] for name in ids]

    def add(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[str | None] | None = None) -> None:
        """Add rows to the store; `update` takes them into the index, and until then they are compared exactly."""
        self.store.add(ids, vectors, sources)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows from the store, which the index sees at once."""
        self.store.remove(ids)

    def update(self) -> int:
        """Take in the rows that the store has got since; returns how many. The old index stays whole until then."""
        new = len(self.store) - len(self.engine)
        if not new:
            return 0
        told = read_index_settings(self.folder)
        with atomic_folder(self.folder) as folder:
            if self.kind.on_disk:  # whose lists are packed as close as they come: there is no room to add to
                fill(self.store, new_engine(self.kind, len(self.store), self.dimension, folder), told["seed"], None)
            else:
                for name in told["files"]:
                    shutil.copy2(self.folder / name, folder / name)
                engine = open_engine(self.kind, self.dimension, folder, True)
                for start in range(len(engine), len(self.store), SHARD_ROWS):
                    engine.add(self.store.rows(start, start + SHARD_ROWS))
                engine.save()
            shutil.copy2(self.folder / CARD_FILE, folder / CARD_FILE)
            write_settings(folder, self.folder, self.store, told)
        self.engine = open_engine(self.kind, self.dimension, self.folder, False)
        return new

    def _not_yet_in(self, allowed: np.ndarray | None) -> np.ndarray:
        """Rows that the store has got since the index was built, and that may answer."""
        rows = np.arange(len(self.engine), len(self.store))
        rows = rows[self.store.alive[rows]] if len(rows) else rows
        return rows if allowed is None else rows[np.isin(rows, allowed)]


def read_index_settings(folder: Path) -> dict[str, Any]:
    """What an index is. Raises DataError for a folder that is none, and a damaged or newer one."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise DataError(f"{folder} is no index (it has no {SETTINGS_FILE}): build one with `mllm-embed index`")
    told = read_json(path, _REBUILD)
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise DataError(f"{path} is damaged, or not of the format {FORMAT!r}: {_REBUILD}")
    missing = [key for key in ("kind", "setting", "rerank", "store", "rows", "shards", "files") if key not in told]
    if missing:
        raise DataError(f"{path} is damaged (no {missing[0]}): {_REBUILD}")
    return told


def write_settings(folder: Path, home: Path, store: VectorStore, told: Mapping[str, Any]) -> None:
    """Write index.json in `folder`, which will be at `home`: what is told, and what ties it to its files and store."""
    files = sorted(path.name for path in folder.iterdir() if path.name not in (SETTINGS_FILE, CARD_FILE))
    tied = {
        "store": os.path.relpath(store.folder.resolve(), home.resolve()),
        "rows": len(store),
        "shards": len(store.shards),
        "rows_fingerprint": store.rows_fingerprint(len(store.shards)),
        "files": {name: sha256_of(folder / name) for name in files},
    }
    write_json(folder / SETTINGS_FILE, {"format": FORMAT, **told, **tied})


def _check_store(path: Path, told: Mapping[str, Any], store: VectorStore) -> None:
    if store.rows_fingerprint(told["shards"]) != told["rows_fingerprint"]:
        raise DataError(f"{path} was built of other vectors than {store.folder} holds: {_REBUILD}")


def _selector(store: VectorStore, rows: int, allowed: np.ndarray | None) -> Any:
    """The rows of an index that may answer, None for all."""
    alive = store.alive[:rows]
    if allowed is not None:
        mask = np.zeros(rows, bool)
        mask[allowed[allowed < rows]] = True
        alive &= mask
    if alive.all():
        return None
    return faiss.IDSelectorBitmap(np.packbits(alive, bitorder="little"))


def _rescored(store: VectorStore, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[Q, C] float32 cosines of the candidates [Q, C] by the full vectors; each row is read once."""
    different, place = np.unique(rows, return_inverse=True)
    vectors = store.take(np.maximum(different, 0))
    place = place.reshape(rows.shape)
    return np.stack([vectors[at] @ query for at, query in zip(place, queries, strict=True)])


def _nothing(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
