"""The order of streamed rows for a DataLoader: no picture is read before its turn, and a run goes on at any row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from mllm_embed.data.tables import ParquetTable, Table

from .order import LANES, WINDOW_BLOCKS, stream_order
from .rows import MixedRows


class StreamSampler(Sampler[int]):
    """The rows of all processes, in an order that is a function of (seed, epoch) and of the number of processes alone.

    Batches of `batch_size` rows belong to the processes in turn, as accelerate hands them out, and each process's own
    lie near one another in its own shards. A run goes on at any row without a read, since an order is made of numbers.

    Args:
        rows: those of all sources.
        batch_size: rows of one process in a step.
        seed: of the run.
        processes: how many there are.
    """

    def __init__(self, rows: MixedRows, batch_size: int, seed: int, processes: int = 1):
        self.rows, self.batch_size, self.seed, self.processes = rows, batch_size, seed, processes
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of `epoch`, from 0, from now on."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self.order())

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())

    def order(self) -> np.ndarray:
        """Return [N] int64: the rows of the epoch, as numbers into `rows`."""
        parts = self.rows.parts
        given = (
            [part.blocks() for part in parts], [len(part) for part in parts], [part.source.weight for part in parts],
            self.batch_size, self.seed, self._epoch,
        )  # fmt: skip
        own = [stream_order(*given, rank, self.processes) for rank in range(self.processes)]
        return np.stack([order.reshape(-1, self.batch_size) for order in own], axis=1).reshape(-1)


def hold_blocks(rows: MixedRows, workers: int) -> None:
    """Let this worker keep in memory the row groups of the lanes that it reads, and no more."""
    lanes = LANES // workers if workers and LANES % workers == 0 else LANES
    for part in rows.parts:
        table: Table | None = getattr(part, "table", None)
        if isinstance(table, ParquetTable):
            table.keep = (WINDOW_BLOCKS + 1) * lanes
