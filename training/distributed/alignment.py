"""The processes aligned for ZeRO: all run the same kinds of chunks in the same order, however their batches fall.

ZeRO-3 gathers each layer's weights from all processes when a forward or backward pass comes to it, so every process
must come there as often as the others; ZeRO-2 sums gradients in the order in which they are ready, which is the order
of the kinds of chunks. A process with fewer chunks of a kind repeats one, whose vectors count nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

from mllm_embed.errors import DataError

from ..batch.collator import Chunk, ContrastiveBatch
from .gathering import world

CHUNK_KINDS = ("inputs with pictures", "inputs without pictures")


class ScheduledChunk(NamedTuple):
    """A chunk's number, and whether its vectors count: one that is repeated for the others' sake counts nothing."""

    number: int
    counts: bool


class Schedule(NamedTuple):
    """The order in which a process runs its live and its frozen chunks, and whether the live ones are cached."""

    live: list[ScheduledChunk]
    frozen: list[ScheduledChunk]
    cached: bool


def own_schedule(batch: ContrastiveBatch) -> Schedule:
    """Return what a process runs that need not wait for others: its chunks as they come."""
    live = [ScheduledChunk(number, True) for number in range(len(batch.live))]
    frozen = [ScheduledChunk(number, True) for number in range(len(batch.frozen))]
    return Schedule(live, frozen, batch.cached)


def common_schedule(batch: ContrastiveBatch, device: torch.device) -> Schedule:
    """Return what this process runs so that all run alike: chunks with pictures first, as many as the fullest has.

    Raise DataError, in all processes, where one has a kind of chunk that another has nothing of to repeat.
    """
    kinds = [*_by_kind(batch.live), *_by_kind(batch.frozen)]
    counts = [len(chunks) for chunks in kinds]
    # one all-reduce for both ends: the least is the most of the negatives
    ends = torch.tensor([*counts, *(-count for count in counts), int(batch.cached)], device=device)
    if world()[1] > 1:
        dist.all_reduce(ends, op=dist.ReduceOp.MAX)
    *both, cached = ends.tolist()
    most, least = both[: len(kinds)], both[len(kinds) :]
    # every process sees the same figures here, so all of them raise, and none is left waiting for the others
    for number, (most_of, least_of) in enumerate(zip(most, least, strict=True)):
        if most_of and not least_of:
            raise DataError(
                f"a process has no {CHUNK_KINDS[number % 2]} in this step while another has, which ZeRO cannot run; "
                "take a larger batch_size, or leave out deepspeed"
            )
    turns = [_repeated(own, count) for own, count in zip(kinds, most, strict=True)]
    # if one computes its chunks twice all must: a second pass gathers the weights again
    return Schedule(turns[0] + turns[1], turns[2] + turns[3], bool(cached))


def _repeated(chunks: Sequence[int], count: int) -> list[ScheduledChunk]:
    """Return `count` turns of chunks, the last of which fills up what is lacking."""
    return [ScheduledChunk(chunks[min(turn, len(chunks) - 1)], turn < len(chunks)) for turn in range(count)]


def _by_kind(chunks: Sequence[Chunk]) -> tuple[list[int], list[int]]:
    """Return the numbers of the chunks with pictures, and of those without."""
    with_pictures: list[int] = []
    without: list[int] = []
    for number, chunk in enumerate(chunks):
        has_pictures = any(tensor.is_floating_point() for tensor in chunk.values())  # token ids and masks are not
        (with_pictures if has_pictures else without).append(number)
    return with_pictures, without
