"""The vectors of a store's shards, read as memory maps."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import numpy as np

from ..errors import ConfigError
from ..vectors.multi import MultiVectors
from ..vectors.unit import unit
from .files import StoreShard, map_vectors
from .manifest import Manifest
from .records import ShardRecord


class MappedVectors:
    """The rows of shards by their numbers; a shard is mapped when it is first asked for."""

    def __init__(self, folder: Path, verify: bool):
        """Have no rows yet.

        Args:
            folder: of the store.
            verify: compare a shard's vectors with their checksum when they are first read.
        """
        self._folder, self._verify = folder, verify
        self._maps: dict[StoreShard, np.ndarray] = {}

    def show(self, manifest: Manifest) -> None:
        """Have the rows of a manifest, of which those that were there before stay mapped."""
        self._shards, self._dimension, self._dtype = manifest.shards, manifest.dimension, np.dtype(manifest.dtype)
        self.several = any(shard.vectors is not None for shard in self._shards)
        self.starts = [0, *accumulate(shard.rows for shard in self._shards)]

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.starts[-1]

    def place(self, row: int) -> tuple[int, int]:
        """Return the number of the shard that has a row, and the row's own there."""
        shard = bisect_right(self.starts, row) - 1
        return shard, row - self.starts[shard]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows start to stop, [n, D] float32 of unit length, perhaps a view of the file."""
        self._check_single()
        parts = []
        at, stop = start, min(stop, len(self))
        while at < stop:
            shard, first = self.place(at)
            last = min(stop, self.starts[shard + 1]) - self.starts[shard]
            parts.append(self._decoded(self._map(shard)[first:last]))
            at += last - first
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, self._dimension), np.float32)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Return the rows of these numbers [n] int64, in their order: [n, D] float32 of unit length."""
        self._check_single()
        positions = np.asarray(positions, np.int64)
        out = np.empty((len(positions), self._dimension), np.float32)
        homes = np.searchsorted(self.starts, positions, side="right") - 1
        order = np.argsort(homes, kind="stable")
        shards, firsts = np.unique(homes[order], return_index=True)
        for shard, here in zip(shards.tolist(), np.split(order, firsts[1:]), strict=False):  # one of no row
            out[here] = self._decoded(self._map(shard)[positions[here] - self.starts[shard]])
        return out

    def of_shard(self, shard: int, record: ShardRecord) -> MultiVectors:
        """Return the vectors of a shard's rows, each of which has as many as the record says."""
        counts = record.counts or [1] * len(record.ids)
        return MultiVectors(self._decoded(self._map(shard)), np.cumsum([0, *counts], dtype=np.int64))

    def _check_single(self) -> None:
        if self.several:
            raise ConfigError(
                f"{self._folder} keeps a vector a token (pooling multi), and one vector a row is asked for: search it "
                "as it is, with `mllm-embed search --gallery`, or encode with a model of single vectors"
            )

    def _map(self, shard: int) -> np.ndarray:
        """Return the vectors [n, D] of a shard as they are stored, mapped from its file."""
        entry = self._shards[shard]
        if entry not in self._maps:
            self._maps[entry] = map_vectors(self._folder, entry, self._dimension, self._dtype, self._verify)
        return self._maps[entry]

    def _decoded(self, stored: np.ndarray) -> np.ndarray:
        """Return stored vectors [n, D] as float32 of unit length."""
        # float32 was of unit length when it was written: to divide again would change last bits, and copy the file
        return np.asarray(stored) if self._dtype == np.float32 else unit(stored.astype(np.float32))
