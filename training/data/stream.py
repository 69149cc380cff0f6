"""Streamed rows for a DataLoader: no picture is read before its turn, and a run goes on at any row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from mllm_embed.errors import DataError

from .order import LANES, WINDOW_BLOCKS, stream_order
from .row import Row
from .rows import MixedRows
from .shards import ParquetTable
from .spares import spare
from .tables import Table


class StreamRows(IterableDataset):
    """The rows of one process in an epoch, in an order that is a function of (seed, epoch) alone.

    Rows of shards have their pictures as bytes. With DataLoader workers each yields its own batches of `batch_size`, so
    that the loader, which takes one batch of each worker in turn, gives the rows in the order of `order()` whatever the
    number of workers. A row that cannot be made is replaced by the next one of its source.
    """

    def __init__(self, rows: MixedRows, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        self.rows, self.batch_size, self.seed, self.rank, self.world = rows, batch_size, seed, rank, world
        self._epoch = self._skipped = 0

    def set_epoch(self, epoch: int) -> None:
        """Takes effect when iteration starts; an epoch starts with its first row."""
        self._epoch, self._skipped = epoch, 0

    def skip(self, rows: int) -> None:
        """Leave out the first `rows` of this process's epoch: nothing is read for it."""
        self._skipped = rows

    def __len__(self) -> int:
        """Rows that are still to come in this epoch."""
        return len(self.order())

    def order(self) -> np.ndarray:
        """[N] int64: the rows to come, as numbers into `rows`."""
        parts = self.rows.parts
        order = stream_order(
            [part.blocks() for part in parts], [len(part) for part in parts], [part.source.weight for part in parts],
            self.batch_size, self.seed, self._epoch, self.rank, self.world,
        )  # fmt: skip
        return order[self._skipped :]

    def __iter__(self) -> Iterator[Row]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        hold_blocks(self.rows, workers)
        order = self.order()
        for start in range(number * self.batch_size, len(order), workers * self.batch_size):
            for index in order[start : start + self.batch_size]:
                yield self._readable(int(index))

    def _readable(self, index: int) -> Row:
        tried, attempt = index, 0
        while True:
            try:
                return self.rows[tried]
            except DataError:
                attempt += 1
                tried = spare(self.rows, index, attempt, self.seed)


def hold_blocks(rows: MixedRows, workers: int) -> None:
    """Let this worker keep in memory the row groups of the lanes that it reads, and no more."""
    lanes = LANES // workers if LANES % max(workers, 1) == 0 else LANES
    for part in rows.parts:
        table: Table | None = getattr(part, "table", None)
        if isinstance(table, ParquetTable):
            table.keep = (WINDOW_BLOCKS + 1) * lanes
