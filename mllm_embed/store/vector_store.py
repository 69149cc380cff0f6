"""A vector store: vectors on disk with their ids, which grows, shrinks, and is never half-written.

    STORE/manifest.json        format, dimension, dtype, what made the vectors, and the shards that belong to the store
    STORE/shards/000000.npy    vectors, one a row
    STORE/shards/000000.json   their ids, where their pictures lie, what could not be read, sha256 of the vectors
    STORE/removed.npy          numbers of the rows that were removed

A shard is written aside and renamed, and belongs to the store only when the manifest names it: a reader sees all of a
change or nothing. Rows keep their numbers for ever, so that an index can name them.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, did_you_mean
from ..files import LOCK_FILE, atomic_file, check_space, folder_lock, write_json
from ..vectors.unit import unit
from .files import (
    CURE,
    DTYPES,
    MANIFEST,
    REMOVED,
    STORE_FORMAT,
    ShardRecord,
    StoreShard,
    next_number,
    read_manifest,
    read_record,
    read_removed,
    sha256_of,
    shard_name,
    vectors_file,
    write_shard,
)

BLOCK_ROWS = 1 << 16
"""Rows that are read or searched at a time, and the most that `VectorStore.add` writes to one shard."""
_NEAR = 10_000  # ids among which a misspelt one is looked for


class VectorStore:
    """Unit vectors by number and by id, read as memory maps."""

    def __init__(self, folder: Path):
        """Use `open` or `create`."""
        self.folder = folder
        self._load()

    def _load(self) -> None:
        """Read what the store is now, and forget what it was."""
        manifest = read_manifest(self.folder)
        self.provenance: dict[str, Any] = manifest["made_by"]
        self.dimension: int = manifest["dimension"]
        self.dtype = np.dtype(manifest["dtype"])
        self.shards = tuple(StoreShard(**entry) for entry in manifest["shards"])
        self._starts = [0, *accumulate(shard.rows for shard in self.shards)]
        self._maps: dict[int, np.ndarray] = {}
        self._removed = read_removed(self.folder / REMOVED, self._starts[-1])
        # what is cached is of the store as it was: a shard that was added, or a row that was removed, changes all of it
        for cached in ("ids", "sources", "_records", "_positions"):
            self.__dict__.pop(cached, None)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> VectorStore:
        """Open a store as it is now; what other processes add later is seen when it is opened again.

        Raises:
            DataError: the folder is no store, is damaged, or holds no vectors yet.
        """
        path = Path(folder)
        store = cls(path)
        if not store.shards:
            raise DataError(f"{path} holds no vectors yet: finish `mllm-embed encode` with the same command")
        for shard in store.shards:
            if not vectors_file(path, shard.name).is_file():
                raise DataError(f"{vectors_file(path, shard.name)} is missing: {CURE}")
        return store

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        dimension: int,
        *,
        dtype: str = "float32",
        provenance: Mapping[str, Any] | None = None,
    ) -> VectorStore:
        """Make a new store without vectors.

        Args:
            folder: a new or empty folder.
            dimension: length D of the vectors.
            dtype: "float32", "float16", or "int8" (a quarter of the room; each vector scaled by its largest number).
            provenance: plain JSON that tells these vectors from any others, `MLLMEmbedder.provenance` say.

        Raises:
            DataError: the folder holds something or cannot be written, or no store has the dtype.
        """
        path = Path(folder)
        if dtype not in DTYPES:
            raise DataError(f"a store keeps {', '.join(DTYPES)}, not {dtype}")
        if path.exists() and not path.is_dir():
            raise DataError(f"{path} is a file: give a folder for the store")
        if path.is_dir() and any(entry.name != LOCK_FILE for entry in path.iterdir()):
            raise DataError(f"{path} holds something already: give a new or empty folder for the store")
        manifest = {"format": STORE_FORMAT, "dimension": dimension, "dtype": dtype, "made_by": dict(provenance or {})}
        write_json(path / MANIFEST, manifest | {"shards": []})
        return cls(path)

    def __len__(self) -> int:
        """Return the number of rows, the removed ones among them."""
        return self._starts[-1]

    @cached_property
    def ids(self) -> list[str]:
        """The id of every row."""
        return list(chain.from_iterable(record.ids for record in self._records))

    @cached_property
    def sources(self) -> list[str | None]:
        """Where the picture of every row lies, None where that is not known."""
        return list(chain.from_iterable(record.sources for record in self._records))

    @property
    def living(self) -> Collection[str]:
        """The ids of the rows that are alive."""
        return self._positions.keys()

    @property
    def lost(self) -> list[dict[str, str]]:
        """Inputs that could not be read when a shard was made: id, source, reason."""
        return list(chain.from_iterable(record.lost for record in self._records))

    @property
    def alive(self) -> np.ndarray:
        """Which rows are alive: [N] bool, False for removed ones."""
        alive = np.ones(len(self), bool)
        alive[self._removed] = False
        return alive

    @property
    def fingerprint(self) -> str:
        """A sha256 that changes whenever rows are added or removed."""
        digest = hashlib.sha256(self.rows_fingerprint(len(self.shards)).encode())
        digest.update(self._removed.tobytes())
        return digest.hexdigest()

    def rows_fingerprint(self, shards: int) -> str:
        """Return a sha256 of what the first so many shards hold, removed rows or not: adding others leaves it."""
        return hashlib.sha256(json.dumps([asdict(shard) for shard in self.shards[:shards]]).encode()).hexdigest()

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows start to stop, removed ones too: [n, D] float32 of unit length, perhaps a view of the file."""
        parts = []
        at, stop = start, min(stop, len(self))
        while at < stop:
            shard = bisect_right(self._starts, at) - 1
            first, last = at - self._starts[shard], min(stop, self._starts[shard + 1]) - self._starts[shard]
            parts.append(self._decoded(self._map(shard)[first:last]))
            at += last - first
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, self.dimension), np.float32)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Return the rows of these numbers [n] int64, in their order: [n, D] float32 of unit length."""
        positions = np.asarray(positions, np.int64)
        out = np.empty((len(positions), self.dimension), np.float32)
        homes = np.searchsorted(self._starts, positions, side="right") - 1
        for shard in np.unique(homes).tolist():
            here = homes == shard
            out[here] = self._decoded(self._map(shard)[positions[here] - self._starts[shard]])
        return out

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[int, np.ndarray]]:
        """Yield all rows in order, at most `size` at a time: the number of the first, and [n, D] float32."""
        for start in range(0, len(self), size):
            yield start, self.rows(start, start + size)

    def position(self, id: str) -> int:
        """Return the number of a row by its id. Raises DataError for an unknown or removed one."""
        if id not in self._positions:
            near = did_you_mean(id, list(self._positions)[:_NEAR])
            raise DataError(f'the id "{id}" is not in the {len(self._positions):,} vectors of {self.folder}{near}')
        return self._positions[id]

    def add(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[str | None] | None = None) -> None:
        """Append rows.

        Args:
            ids: none of them in the store already; a removed one may come again.
            vectors: [n, D] floats of unit length.
            sources: where their pictures lie, for contact sheets.

        Nothing is added where it raises anything.

        Raises:
            DataError: ids given twice or there already, vectors of another size, with NaN or not of unit length, or a
                full disk.
            ConfigError: another process writes to the store.
        """
        ids, sources = [str(name) for name in ids], list(sources or [None] * len(ids))
        vectors = np.asarray(vectors)
        if vectors.shape != (len(ids), self.dimension) or len(sources) != len(ids):
            raise DataError(f"{len(ids)} ids do not fit vectors of shape {vectors.shape}: give [n, {self.dimension}]")
        with self._writing():
            self._check_new(ids)
            check_space(self.folder, vectors.size * self.dtype.itemsize, f"{len(ids):,} vectors")
            shards = list(self.shards)
            for at in range(0, len(ids), BLOCK_ROWS):
                part = slice(at, at + BLOCK_ROWS)
                name = shard_name(next_number(self.folder))
                record = write_shard(self.folder, name, self.dtype, ids[part], vectors[part], sources[part])
                shards.append(record.shard(name))
            self._commit(shards)  # all parts at once, so that a reader sees none or all of the rows

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows: none is found any more; their numbers and room stay taken.

        Nothing is removed where it raises anything.

        Raises:
            DataError: an id is not there.
            ConfigError: another process writes to the store.
        """
        with self._writing():
            gone = [self.position(name) for name in ids]
            # the shards stay as they are: an index names rows by number, and a removed row only is no answer
            removed = np.union1d(self._removed, np.array(gone, np.int64))
            with atomic_file(self.folder / REMOVED) as path, path.open("wb") as file:
                np.save(file, removed, allow_pickle=False)
            self._removed = removed
            self.__dict__.pop("_positions", None)

    def verify(self) -> None:
        """Read all vectors, and raise DataError naming the first file that is not what was written."""
        for shard in self.shards:
            path = vectors_file(self.folder, shard.name)
            if sha256_of(path) != shard.sha256:
                raise DataError(f"{path} is not what was written: {CURE}")

    def commit(self, names: Iterable[str], data: Iterable[Mapping[str, Any]] = ()) -> None:
        """Let shards belong to the store, in this order, and note what they were made of.

        A shard that belongs to it stays where it is: a process that was killed after its commit may have left others
        to think that the shards are still to come.

        Args:
            names: of shards that `write_shard` has written.
            data: plain JSON with a "path" each, which takes the place of an older entry of that path.
        """
        inside = {shard.name for shard in self.shards}
        new = [read_record(self.folder, name).shard(name) for name in names if name not in inside]
        shards = [*self.shards, *new]
        self._commit(shards, {entry["path"]: dict(entry) for entry in data})

    @cached_property
    def _records(self) -> list[ShardRecord]:
        """The record of each shard."""
        return [read_record(self.folder, shard.name) for shard in self.shards]

    @cached_property
    def _positions(self) -> dict[str, int]:
        """Number of each id that is alive."""
        gone = set(self._removed.tolist())
        return {name: at for at, name in enumerate(self.ids) if at not in gone}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Keep other processes from writing within, and read what they wrote before."""
        with folder_lock(self.folder):
            self._load()
            yield

    def _check_new(self, ids: Sequence[str]) -> None:
        """Raise DataError for an id that is given twice, or that a row which is alive has."""
        seen: set[str] = set()
        for name in ids:
            if name in seen:
                raise DataError(f'the id "{name}" is given twice')
            if name in self._positions:
                raise DataError(f'the id "{name}" is in {self.folder} already: remove it first, or give another')
            seen.add(name)

    def _commit(self, shards: Sequence[StoreShard], data: Mapping[str, Any] | None = None) -> None:
        """Write the manifest: what it names from now on is the store."""
        manifest = read_manifest(self.folder)
        sources = {entry["path"]: entry for entry in manifest.get("data", [])} | dict(data or {})
        manifest |= {"data": list(sources.values()), "shards": [asdict(shard) for shard in shards]}
        write_json(self.folder / MANIFEST, manifest)
        self._load()

    def _map(self, shard: int) -> np.ndarray:
        """Return the vectors [n, D] of a shard as they are stored, mapped from its file."""
        if shard not in self._maps:
            entry = self.shards[shard]
            if not entry.rows:
                return np.empty((0, self.dimension), self.dtype)  # nothing of which there could be a map
            path = vectors_file(self.folder, entry.name)
            try:
                found = np.lib.format.open_memmap(path, mode="r")
            except (ValueError, OSError) as error:
                raise DataError(f"{path} is damaged ({error}): {CURE}") from error
            if found.shape != (entry.rows, self.dimension) or found.dtype != self.dtype:
                raise DataError(
                    f"{path} is {found.dtype} of shape {found.shape}, not {self.dtype} of {entry.rows} x "
                    f"{self.dimension}: {CURE}"
                )
            self._maps[shard] = found
        return self._maps[shard]

    def _decoded(self, stored: np.ndarray) -> np.ndarray:
        """Return stored vectors [n, D] as float32 of unit length."""
        # float32 was of unit length when it was written: to divide again would change last bits, and copy the file
        return np.asarray(stored) if self.dtype == np.float32 else unit(stored.astype(np.float32))
