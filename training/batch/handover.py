"""Batches on their way from a worker process: one block of shared memory, or a pipe where there is no room for it.

torch lays each tensor of a batch in shared memory by itself, in a thread of the worker that nobody hears: where
/dev/shm is full (64 MB in a container, unless it asks for more) or there are too many open files, the batch is lost and
the training waits for ever. Here the worker lays down the whole batch as one block, and does so itself.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from mllm_embed.errors import ConfigError, MLLMEmbedError, reason

from .examples import Example
from .progress import Progress

SHARED_MEMORY = Path("/dev/shm")  # of Linux; elsewhere it has no size of its own
PREFETCHED = 2  # batches that torch lets a worker make before their turn
_HELD = 2  # batches that the training holds: accelerate takes the next one before it gives the last
_SEMAPHORES = 8  # of a worker's queues and events, at most
_ALIGNED = 64  # bytes


class Batch(Protocol):
    """What a collator makes: it can be told to hold something else in the place of its tensors."""

    def with_tensors(self, change: Callable[[Any], Any]) -> Batch:
        """Return the batch with something in the place of each tensor."""


@dataclass
class Handover:
    """A collator whose batches leave a worker process whole; in the training process it does what `collate` does.

    Args:
        collate: makes the batch, or the error in its place.
        progress: where the workers say what they do.
    """

    collate: Callable[[list[Example | MLLMEmbedError]], Mapping[str, Batch | MLLMEmbedError]]
    progress: Progress

    def __call__(self, examples: list[Example | MLLMEmbedError]) -> dict[str, Any]:
        """Return what `collate` does, a worker's batch packed: it unpacks itself where it arrives."""
        worker = get_worker_info()
        if worker is None:
            return dict(self.collate(examples))
        made = self.collate(examples)
        packed = {name: _packed(value) for name, value in made.items()}
        self.progress.handed_over(worker.id)
        return packed


class _Slot(NamedTuple):
    """The place of a tensor in a block of bytes."""

    start: int
    dtype: torch.dtype
    shape: torch.Size

    def of(self, block: Tensor) -> Tensor:
        size = self.dtype.itemsize * math.prod(self.shape)
        return block[self.start : self.start + size].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class _Packed:
    """A batch with slots in place of its tensors, and the block [bytes] uint8 that holds them."""

    batch: Any
    block: Tensor | np.ndarray

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (self.batch, self.block)


def _packed(value: Batch | MLLMEmbedError) -> Any:
    if isinstance(value, MLLMEmbedError):
        return value
    parts: list[Tensor] = []
    slots: list[_Slot] = []

    def taken(tensor: Tensor) -> Any:
        part = tensor.contiguous().view(-1).view(torch.uint8)
        start = sum(map(len, parts))
        slots.append(_Slot(start, tensor.dtype, tensor.shape))
        parts.extend((part, part.new_zeros(-len(part) % _ALIGNED)))
        return slots[-1]

    batch = value.with_tensors(taken)
    block = _shared_block(sum(map(len, parts)))
    return _Packed(batch, torch.cat(parts).numpy() if block is None else torch.cat(parts, out=block))


def _shared_block(size: int) -> Tensor | None:
    """Return a block [size] uint8 of shared memory; None where that has no room."""
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free < size:
        return None
    try:
        # as torch's own collation makes it: what is made elsewhere and shared then is written twice
        storage = torch.UntypedStorage._new_shared(size)
    except (RuntimeError, OSError):  # another worker was quicker, or the limit is one of files or their size
        for left in SHARED_MEMORY.glob(f"torch_{os.getpid()}_*"):
            left.unlink(missing_ok=True)  # torch leaves its empty file
        return None
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _unpacked(batch: Any, block: Tensor | np.ndarray) -> Any:
    whole = block if isinstance(block, Tensor) else torch.from_numpy(block)
    return batch.with_tensors(lambda slot: slot.of(whole))


def check_semaphores(workers: int) -> None:
    """Raise ConfigError where the system has no semaphores for so many worker processes."""
    try:
        taken = [multiprocessing.Semaphore() for _ in range(workers * _SEMAPHORES)]
    except (OSError, ImportError) as error:  # the latter where there is no shared memory at all
        raise ConfigError(
            f"{workers} worker processes cannot be started, since shared memory ({SHARED_MEMORY}) has no room for what "
            f"they wait on ({reason(error)}); give it room (of a container, --shm-size 1g), or set workers to 0"
        ) from error
    taken.clear()


def room_for(workers: int, input: Callable[[], dict[str, Tensor]], count: int) -> str | None:
    """Return a sentence where shared memory may be too small for a batch of `count` inputs as large as `input` gives.

    Raise ConfigError where so many workers cannot even be started.
    """
    if not workers:
        return None
    check_semaphores(workers)
    if not SHARED_MEMORY.is_dir():
        return None
    return room_in_words(sum(tensor.nbytes for tensor in input().values()) * count, workers)


def room_in_words(batch: int, workers: int) -> str | None:
    """Return a sentence where shared memory may be too small for what workers hand over, None where it is not.

    Args:
        batch: the bytes of a batch of this process at most.
        workers: of this process.
    """
    needed, free = batch * (workers * PREFETCHED + _HELD), shutil.disk_usage(SHARED_MEMORY).free
    if free >= needed:
        return None
    return (
        f"shared memory ({SHARED_MEMORY}) has {free / 2**20:,.0f} MiB free, and the batches of {workers} workers may "
        f"take {needed / 2**20:,.0f} MiB: what finds no room goes through a pipe, which is slower; start a container "
        f"with --shm-size {math.ceil(needed / 2**30)}g, or lower workers"
    )
