"""A vector store: vectors on disk with their ids, which grows, shrinks, and is never half-written.

    STORE/manifest.json        format, dimension, dtype, what made the vectors, and the shards that belong to the store
    STORE/shards/000000.npy    vectors, one a row
    STORE/shards/000000.json   their ids, where their pictures lie, what they held, what could not be read, checksums
    STORE/shards/000000-*      columns of their sources that are kept beside them, where there are any, as parquet
    STORE/removed.npy          numbers of the rows that were removed

A shard is written aside and renamed, and belongs to the store only when the manifest names it: a reader sees all of a
change or nothing. Rows keep their numbers for ever, so that an index can name them. The manifest has a checksum of
everything; what is small is compared with it when a store is opened, a shard's vectors when they are first read.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..data.values import ids_of
from ..errors import DataError, UnknownIdError
from ..files import check_space
from ..locks import folder_lock
from ..vectors.multi import MultiVectors
from .columns import Columns
from .files import (
    CURE,
    StoreShard,
    check_size,
    discarded_on_failure,
    read_record,
    read_shard,
    shard_names,
    verify_shard,
    write_shard,
)  # fmt: skip
from .kept.changes import Revalued, Values, given_values, kept_columns, with_values
from .kept.files import remove_former
from .lookup import near_id, row_numbers
from .manifest import Manifest, create_manifest, read_manifest, with_shards, without, write_manifest
from .mapped import MappedVectors
from .plans import check_new, check_unplanned, next_number, warn_of_loose_shards
from .records import ShardRecord, still_lost

BLOCK_ROWS = 1 << 16
"""Rows that are read or searched at a time, and the most that `VectorStore.add` writes to one shard."""


class VectorStore:
    """Unit vectors by number and by id, read as memory maps."""

    def __init__(self, folder: Path, verify: bool = True):
        """Use `open` or `create`."""
        self.folder, self._vectors = folder, MappedVectors(folder, verify)
        self._read: dict[StoreShard, ShardRecord] = {}
        self._load()

    def _load(self) -> None:
        """Read what the store is now, and forget what it was; its shards never change."""
        self._manifest = manifest = read_manifest(self.folder)
        self.provenance: dict[str, Any] = manifest.made_by
        self.dimension: int = manifest.dimension
        self.dtype = np.dtype(manifest.dtype)
        self.shards, self._removed = manifest.shards, manifest.removed
        self._vectors.show(manifest)
        # what is cached is of the store as it was: a shard that was added, or a row that was removed, changes all of it
        for cached in ("ids", "sources", "digests", "origins", "columns", "alive", "_records", "_positions"):
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
        create_manifest(Path(folder), dimension, dtype, provenance or {})
        return cls(Path(folder))

    def __len__(self) -> int:
        """Return the number of rows, the removed ones among them."""
        return len(self._vectors)

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
    def kept(self) -> tuple[str, ...]:
        """The names of the columns that are kept beside the vectors."""
        return self._manifest.kept.columns

    @cached_property
    def columns(self) -> Columns | None:
        """The kept columns of every row, read when they are first asked for; None where none are kept.

        Raises DataError where a file of them is missing or damaged.
        """
        return kept_columns(self.folder, self._manifest, self._records) if self.kept else None

    @property
    def files(self) -> set[str]:
        """The names of the files in its folder of shards, but for their endings."""
        return {*(shard.name for shard in self.shards), *self._manifest.kept.stems()}

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
        return self._manifest.fingerprint

    def rows_fingerprint(self, shards: int) -> str:
        """Return a sha256 of what the first so many shards hold, removed rows or not: adding others leaves it."""
        return self._manifest.rows_fingerprint(shards)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows start to stop, removed ones too: [n, D] float32 of unit length, perhaps a view of the file."""
        return self._vectors.rows(start, stop)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Return the rows of these numbers [n] int64, in their order: [n, D] float32 of unit length."""
        return self._vectors.take(positions)

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[int, np.ndarray]]:
        """Yield all rows in order, at most `size` at a time: the number of the first, and [n, D] float32."""
        for start in range(0, len(self), size):
            yield start, self.rows(start, start + size)

    def several(self, shard: int) -> MultiVectors:
        """Return the vectors of a shard's rows, of which each may have several (`StoreShard.vectors`)."""
        return self._vectors.of_shard(shard, self._records[shard])

    def position(self, id: str) -> int:
        """Return the number of a row by its id. Raises UnknownIdError for an unknown or removed one."""
        if id not in self._positions:
            told = f'the id "{id}" is not in the {len(self._positions):,} vectors of {self.folder}'
            raise UnknownIdError(told + near_id(id, self._positions), id)
        return self._positions[id]

    def positions(self, ids: Collection[str]) -> np.ndarray:
        """Return the numbers of rows [n] int64 by their ids. Raises UnknownIdError for the first that is not there."""
        try:
            return row_numbers(self._positions, ids)
        except KeyError:
            return np.array([self.position(name) for name in ids], np.int64)

    def mark(self, row: int) -> str:
        """Return what tells a row's vector from any other that its id may have had or will have."""
        shard, at = self._vectors.place(row)
        return f"{self.shards[shard].sha256}:{at}"

    def add(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        sources: Sequence[str | None] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Append rows.

        Args:
            ids: none of them in the store already; a removed one may come again.
            vectors: [n, D] floats of unit length.
            sources: where their pictures lie, for contact sheets.
            metadata: the values of their kept columns, by name; a column that is new is kept from now on.

        Nothing is added where it raises anything.

        Raises:
            DataError: ids that are empty, no names, given twice or there already, vectors of another size, with NaN or
                not of unit length, values that no column holds, or a full disk.
            ConfigError: another process writes to the store, or it keeps several vectors a row.
        """
        ids, sources = ids_of(ids), [None] * len(ids) if sources is None else list(sources)
        vectors, _ = np.asarray(vectors), self.rows(0, 0)  # which a store of several vectors a row refuses
        if vectors.shape != (len(ids), self.dimension) or len(sources) != len(ids):
            raise DataError(f"{len(ids)} ids do not fit vectors of shape {vectors.shape}: give [n, {self.dimension}]")
        given = None if metadata is None else given_values(ids, metadata)
        with self._writing():
            check_new(self.folder, self.provenance, ids, self.living)
            check_space(self.folder, vectors.size * self.dtype.itemsize, f"{len(ids):,} vectors")
            names = shard_names(next_number(self.folder), len(ids), BLOCK_ROWS)
            with discarded_on_failure(self.folder, names):
                for at, name in enumerate(names):
                    part = slice(at * BLOCK_ROWS, (at + 1) * BLOCK_ROWS)
                    write_shard(self.folder, name, self.dtype, ids[part], vectors[part], sources[part])
                self._append(names, (), given)  # all parts at once, so that a reader sees none or all of the rows

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows, or none where it raises anything: they are not found any more; numbers and room stay taken.

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
        kept_columns(self.folder, self._manifest, self._records)

    def commit(
        self, names: Iterable[str], data: Sequence[Mapping[str, Any]] = (), given: Values | None = None
    ) -> Revalued:
        """Let shards belong to the store, in this order, and note what they were made of.

        A row whose id is there already takes the place of the older one, in the same step. A shard that belongs to the
        store stays where it is: a process that was killed after its commit may have left others to think that the
        shards are still to come. Called under the lock of the store's folder.

        Args:
            names: of shards that `write_shard` has written.
            data: plain JSON with a "path" each, which takes the place of an older entry of that path.
            given: the values that rows have from now on in kept columns.

        Returns what has changed of the rows that were there before.
        """
        self._load()
        return self._append(names, data, given)

    @cached_property
    def _records(self) -> list[ShardRecord]:
        """The record of each shard."""
        records = [self._read.get(shard) or read_record(self.folder, shard) for shard in self.shards]
        self._read = dict(zip(self.shards, records, strict=True))
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

    def _append(self, names: Iterable[str], data: Sequence[Mapping[str, Any]], given: Values | None) -> Revalued:
        """Let those shards belong to the store that do not yet, whose rows take the place of others of their ids."""
        inside = {shard.name for shard in self.shards}
        new = [read_shard(self.folder, name) for name in names if name not in inside]
        manifest = with_shards(self._manifest, new, self._positions if new else {}, data)
        records = [*self._records, *(record for _, record in new)]
        kept, revalued = with_values(self.folder, manifest, records, given, len(self))
        if new or data or kept != manifest.kept:
            self._commit(replace(manifest, kept=kept))
        return revalued

    def _commit(self, manifest: Manifest) -> None:
        """Write a manifest: what it says from now on is the store."""
        write_manifest(self.folder, manifest)
        remove_former(self.folder, self._manifest.kept, manifest.kept)
        self._load()
