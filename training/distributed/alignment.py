"""ZeRO in step: every process runs the same kinds of chunks in the same order, however its own batch falls.

ZeRO-3 gathers each layer's weights from all processes when a forward or backward pass comes to it, so every process
must come there as often as the others; ZeRO-2 sums gradients in the order in which they are ready, which is the order
of the kinds of chunks. A process with fewer chunks of a kind repeats one, whose vectors count nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from mllm_embed.errors import DataError

from ..batch.collator import Chunk, ContrastiveBatch
from .gathering import world

Turn = tuple[int, bool]  # a chunk's number, and whether its vectors count
KINDS = ("inputs with pictures", "inputs without pictures")


def in_order(batch: ContrastiveBatch) -> tuple[list[Turn], list[Turn], bool]:
    """What a process alone runs: its live and frozen chunks as they come, and whether the live ones are cached."""
    return [(n, True) for n in range(len(batch.live))], [(n, True) for n in range(len(batch.frozen))], batch.cached


def in_step(batch: ContrastiveBatch, device: torch.device) -> tuple[list[Turn], list[Turn], bool]:
    """The same when all processes run alike: chunks with pictures first, as many as the process with the most has.

    Raises DataError, in all processes, where one has a kind of chunk that another has nothing of to repeat.
    """
    kinds = [_by_kind(batch.live), _by_kind(batch.frozen)]
    counts = [len(chunks) for tower in kinds for chunks in tower]
    most = torch.tensor([*counts, *(-count for count in counts), int(batch.cached)], device=device)
    if world()[1] > 1:
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
    *both, cached = most.tolist()
    turns = []
    for number, (most_of, least_of) in enumerate(zip(both[:4], both[4:], strict=True)):
        if most_of and not least_of:
            raise DataError(
                f"a process has no {KINDS[number % 2]} in this step while another has, which ZeRO cannot run; take a "
                "larger batch_size, or leave out deepspeed"
            )
        own = kinds[number // 2][number % 2]
        turns.append([(own[min(turn, len(own) - 1)], turn < len(own)) for turn in range(most_of)])
    return turns[0] + turns[1], turns[2] + turns[3], bool(cached)


def _by_kind(chunks: Sequence[Chunk]) -> tuple[list[int], list[int]]:
    shown = [any(tensor.is_floating_point() for tensor in chunk.values()) for chunk in chunks]
    return [n for n, has in enumerate(shown) if has], [n for n, has in enumerate(shown) if not has]
