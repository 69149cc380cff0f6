"""A vector store: vectors on disk with their ids, which grows, shrinks, and is never half-written.

    STORE/manifest.json        format, dimension, dtype, what made the vectors, and the shards that belong to the store
    STORE/shards/000000.npy    vectors, one a row
    STORE/shards/000000.json   their ids, where their pictures lie, what they held, what could not be read, checksums
    STORE/removed.npy          numbers of the rows that were removed

A shard is written aside and renamed, and belongs to the store only when the manifest names it: a reader sees all of a
change or nothing. Rows keep their numbers for ever, so that an index can name them. The manifest has a checksum of
everything; what is small is compared with it when a store is opened, a shard's vectors when they are first read.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np

from ..data.values import ids_of
from ..errors import DataError
from ..files import check_space
from ..locks import LOCK_FILE, folder_lock
from ..vectors.unit import unit
from .files import (
    CURE,
    DTYPES,
    ShardRecord,
    StoreShard,
    check_size,
    map_vectors,
    read_record,
    read_shard,
    shard_name,
    still_lost,
    verify_shard,
    write_shard,
)
from .lookup import near_id, row_numbers
from .manifest import Manifest, read_manifest, with_shards, without, write_manifest
from .plans import check_new, check_unplanned, next_number, warn_of_loose_shards

BLOCK_ROWS = 1 << 16
"""Rows that are read or searched at a time, and the most that `VectorStore.add` writes to one shard."""


class VectorStore:
    """Unit vectors by number and by id, read as memory maps."""

    def __init__(self, folder: Path, verify: bool = True):
        """Use `open` or `create`."""
        self.folder, self._verify = folder, verify
        self._maps: dict[StoreShard, np.ndarray] = {}
        self._kept: dict[StoreShard, ShardRecord] = {}
        self._load()

    def _load(self) -> None:
        """Read what the store is now, and forget what it was; its shards never change."""
        self._manifest = manifest = read_manifest(self.folder)
        self.provenance: dict[str, Any] = manifest.made_by
        self.dimension: int = manifest.dimension
        self.dtype = np.dtype(manifest.dtype)
        self.shards = manifest.shards
        self._starts = [0, *accumulate(shard.rows for shard in self.shards)]
        self._removed = manifest.removed
        # what is cached is of the store as it was: a shard that was added, or a row that was removed, changes all of it
        for cached in ("ids", "sources", "digests", "origins", "alive", "_records", "_positions"):
            self.__dict__.pop(cached, None)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, verify: bool = True) -> VectorStore:
        """Open a store as it is now; what other processes add later is seen when it is opened again.

        Manifest, ids and removed rows are compared with their checksums here, the vectors of a shard when they are
        first read.

        Args:
            folder: of the store.
            verify: False leaves the vectors' checksums alone, for who cannot pay for reading a whole shard first.

        Raises:
            DataError: the folder is no store, is damaged, or holds no vectors yet.
        """
        path = Path(folder)
        store = cls(path, verify)
        if not store.shards:
            raise DataError(f"{path} holds no vectors yet: finish `mllm-embed encode` with the same command")
        store.verify_small()
        warn_of_loose_shards(path)
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
        write_manifest(path, Manifest(dimension, dtype, dict(provenance or {})))
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

    @cached_property
    def digests(self) -> list[str | None]:
        """The sha256 of what every row held when it was embedded, None where that is not known."""
        return list(chain.from_iterable(record.row_digests() for record in self._records))

    @cached_property
    def origins(self) -> list[str | None]:
        """The source that every row came from, as it was given to `encode`, None where that is not known."""
        return list(chain.from_iterable(record.row_origins() for record in self._records))

    @property
    def living(self) -> Collection[str]:
        """The ids of the rows that are alive."""
        return self._positions.keys()

    @property
    def lost(self) -> list[dict[str, str]]:
        """Inputs that could not be read when they were last tried: id, source, reason.

        One that has changed and could not be read any more keeps its former vector, and is among them all the same.
        """
        return still_lost(self._records)

    @cached_property
    def alive(self) -> np.ndarray:
        """Which rows are alive: [N] bool, False for removed ones; not to be written to."""
        alive = np.ones(len(self), bool)
        alive[self._removed] = False
        alive.setflags(write=False)
        return alive

    @property
    def fingerprint(self) -> str:
        """A sha256 that changes whenever rows are added or removed."""
        digest = hashlib.sha256(self.rows_fingerprint(len(self.shards)).encode())
        digest.update(np.sort(self._removed).tobytes())
        return digest.hexdigest()

    def rows_fingerprint(self, shards: int) -> str:
        """Return a sha256 of what the first so many shards hold, removed rows or not: adding others leaves it."""
        facts = [{"name": shard.name, "rows": shard.rows, "sha256": shard.sha256} for shard in self.shards[:shards]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

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
        order = np.argsort(homes, kind="stable")
        shards, firsts = np.unique(homes[order], return_index=True)
        for shard, here in zip(shards.tolist(), np.split(order, firsts[1:]), strict=False):  # one of no row
            out[here] = self._decoded(self._map(shard)[positions[here] - self._starts[shard]])
        return out

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[int, np.ndarray]]:
        """Yield all rows in order, at most `size` at a time: the number of the first, and [n, D] float32."""
        for start in range(0, len(self), size):
            yield start, self.rows(start, start + size)

    def position(self, id: str) -> int:
        """Return the number of a row by its id. Raises DataError for an unknown or removed one."""
        if id not in self._positions:
            near = near_id(id, self._positions)
            raise DataError(f'the id "{id}" is not in the {len(self._positions):,} vectors of {self.folder}{near}')
        return self._positions[id]

    def positions(self, ids: Collection[str]) -> np.ndarray:
        """Return the numbers of rows [n] int64 by their ids. Raises DataError for the first unknown or removed one."""
        try:
            return row_numbers(self._positions, ids)
        except KeyError:
            return np.array([self.position(name) for name in ids], np.int64)

    def mark(self, row: int) -> str:
        """Return what tells a row's vector from any other that its id may have had or will have."""
        shard = bisect_right(self._starts, row) - 1
        return f"{self.shards[shard].sha256}:{row - self._starts[shard]}"

    def add(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[str | None] | None = None) -> None:
        """Append rows.

        Args:
            ids: none of them in the store already; a removed one may come again.
            vectors: [n, D] floats of unit length.
            sources: where their pictures lie, for contact sheets.

        Nothing is added where it raises anything.

        Raises:
            DataError: ids that are empty, no names, given twice or there already, vectors of another size, with NaN or
                not of unit length, or a full disk.
            ConfigError: another process writes to the store.
        """
        ids, sources = ids_of(ids), [None] * len(ids) if sources is None else list(sources)
        vectors = np.asarray(vectors)
        if vectors.shape != (len(ids), self.dimension) or len(sources) != len(ids):
            raise DataError(f"{len(ids)} ids do not fit vectors of shape {vectors.shape}: give [n, {self.dimension}]")
        with self._writing():
            check_new(self.folder, ids, self.living)
            check_space(self.folder, vectors.size * self.dtype.itemsize, f"{len(ids):,} vectors")
            starts, first = range(0, len(ids), BLOCK_ROWS), next_number(self.folder)
            names = [shard_name(first + at) for at in range(len(starts))]
            for name, at in zip(names, starts, strict=True):
                part = slice(at, at + BLOCK_ROWS)
                write_shard(self.folder, name, self.dtype, ids[part], vectors[part], sources[part])
            self._append(names, ())  # all parts at once, so that a reader sees none or all of the rows

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows: none is found any more; their numbers and room stay taken.

        Nothing is removed where it raises anything.

        Raises:
            DataError: an id is not there, or is being embedded anew.
            ConfigError: another process writes to the store.
        """
        with self._writing():
            gone = {name: self.position(name) for name in ids}
            check_unplanned(self.folder, gone)
            # the shards stay as they are: an index names rows by number, and a removed row only is no answer
            self._commit(without(self._manifest, gone.values()))

    def verify(self) -> None:
        """Read all of the store, and raise DataError naming the first file that is not what was written."""
        read_manifest(self.folder)
        for shard in self.shards:
            verify_shard(self.folder, shard)
        self.verify_small()

    def commit(self, names: Iterable[str], data: Iterable[Mapping[str, Any]] = ()) -> None:
        """Let shards belong to the store, in this order, and note what they were made of.

        A row whose id is there already takes the place of the older one, in the same step. A shard that belongs to the
        store stays where it is: a process that was killed after its commit may have left others to think that the
        shards are still to come. Called under the lock of the store's folder.

        Args:
            names: of shards that `write_shard` has written.
            data: plain JSON with a "path" each, which takes the place of an older entry of that path.
        """
        self._load()
        self._append(names, data)

    @cached_property
    def _records(self) -> list[ShardRecord]:
        """The record of each shard."""
        records = [self._kept.get(shard) or read_record(self.folder, shard) for shard in self.shards]
        self._kept = dict(zip(self.shards, records, strict=True))
        return records

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

    def verify_small(self) -> None:
        """Raise DataError for what is damaged as far as it shows without reading vectors: ids, sizes of files."""
        for shard in self.shards:
            check_size(self.folder, shard, self.dimension, self.dtype)
        if len(self._positions) + len(self._removed) != len(self):
            twice = next(self.ids[at] for at in np.flatnonzero(self.alive) if self._positions[self.ids[at]] != at)
            raise DataError(f'{self.folder} has two rows of the id "{twice}": {CURE}')

    def _append(self, names: Iterable[str], data: Iterable[Mapping[str, Any]]) -> None:
        """Let those shards belong to the store that do not yet, whose rows take the place of others of their ids."""
        inside = {shard.name for shard in self.shards}
        new = [read_shard(self.folder, name) for name in names if name not in inside]
        self._commit(with_shards(self._manifest, new, self._positions if new else {}, data))

    def _commit(self, manifest: Manifest) -> None:
        """Write a manifest: what it says from now on is the store."""
        write_manifest(self.folder, manifest)
        self._load()

    def _map(self, shard: int) -> np.ndarray:
        """Return the vectors [n, D] of a shard as they are stored, mapped from its file."""
        entry = self.shards[shard]
        if entry not in self._maps:
            self._maps[entry] = map_vectors(self.folder, entry, self.dimension, self.dtype, self._verify)
        return self._maps[entry]

    def _decoded(self, stored: np.ndarray) -> np.ndarray:
        """Return stored vectors [n, D] as float32 of unit length."""
        # float32 was of unit length when it was written: to divide again would change last bits, and copy the file
        return np.asarray(stored) if self.dtype == np.float32 else unit(stored.astype(np.float32))
