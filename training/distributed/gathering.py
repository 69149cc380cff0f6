"""One batch over all processes: everybody's vectors, with gradients, and where each row's inputs lie among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..batch.collator import ContrastiveBatch
from ..recipe.config import Use


@dataclass(frozen=True)
class GatheredBatch:
    """The rows of all processes, in the processes' order.

    Args:
        vectors: [N, D]; gradients of every process's loss reach the process that made them.
        inputs: [N] int64, as in Batch.
        places: by use [B] int64 into `vectors`, B the rows of all processes; one vector for equal inputs of a tower.
        owners: [K] int64, the row that brought each hard negative.
        mine: [R] int64, the rows of this process.
        rows: B.
    """

    vectors: Tensor
    inputs: Tensor
    places: dict[Use, Tensor]
    owners: Tensor
    mine: Tensor
    rows: int

    def owners_of(self, use: Use) -> Tensor:
        """Which row brought each input of a role."""
        return self.owners if use.role == "hard_negative" else torch.arange(self.rows, device=self.inputs.device)


def world() -> tuple[int, int]:
    """This process's number, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def agreed(question: Callable[[], int], device: torch.device) -> int:
    """What the first process finds, in every process: a shared disk may show the others an older state."""
    rank, count = world()
    answer = torch.tensor(int(question()) if rank == 0 else 0, device=device)
    if count > 1:
        dist.broadcast(answer, 0)
    return int(answer)


def gather(vectors: Tensor, batch: ContrastiveBatch, rows: int) -> GatheredBatch:
    """Pool the batches of all processes, each of `rows` rows. A process alone sends nothing and keeps its vectors."""
    device = vectors.device
    rank, count = world()
    inputs, owners = batch.inputs.to(device), batch.owners.to(device)
    places = {use: place.to(device) for use, place in batch.places.items()}
    if count == 1:
        return GatheredBatch(vectors, inputs, places, owners, torch.arange(rows, device=device), rows)
    numbers = gather_ragged(inputs)
    live = sum(len(chunk["input_ids"]) for chunk in batch.live)
    frozen = torch.cat(gather_ragged((torch.arange(len(inputs), device=device) >= live).long()))
    starts = [0]
    for part in numbers:
        starts.append(starts[-1] + len(part))
    every = torch.cat(numbers)
    same = _first_equal(every, frozen)
    merged = {
        use: same[torch.cat([part + start for part, start in zip(gather_ragged(place), starts, strict=False)])]
        for use, place in places.items()
    }
    brought = torch.cat([part + number * rows for number, part in enumerate(gather_ragged(owners))])
    pooled = torch.cat(_gather_with_gradient(vectors, [len(part) for part in numbers]))
    mine = torch.arange(rank * rows, (rank + 1) * rows, device=device)
    return GatheredBatch(pooled, every, merged, brought, mine, rows * count)


def gather_ragged(values: Tensor) -> list[Tensor]:
    """Each process's tensor, which may differ in length, without gradient: [n, ...] -> world x [n_r, ...]."""
    length = torch.tensor([len(values)], device=values.device)
    lengths = [torch.zeros_like(length) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, length)
    most = int(max(lengths))
    padded = values.new_zeros(most, *values.shape[1:])
    padded[: len(values)] = values
    parts = [torch.zeros_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return [part[: int(n)] for part, n in zip(parts, lengths, strict=True)]


def interleaved(parts: list[Tensor]) -> Tensor:
    """Each process's share values[rank::world], [n_r, ...], put together again: [n, ...]."""
    whole = parts[0].new_zeros(sum(map(len, parts)), *parts[0].shape[1:])
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


class _AllGather(torch.autograd.Function):
    """[n, D] -> [world, n, D]. torch's own, in torch.distributed.nn, is deprecated; its successor is private."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """What all processes' losses want of this one's vectors; gloo has no reduce-scatter, which would send half."""
        summed = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed[dist.get_rank()]


def _gather_with_gradient(vectors: Tensor, lengths: list[int]) -> list[Tensor]:
    padded = torch.cat([vectors, vectors.new_zeros(max(lengths) - len(vectors), *vectors.shape[1:])])
    return [part[:length] for part, length in zip(_AllGather.apply(padded), lengths, strict=True)]


def _first_equal(numbers: Tensor, towers: Tensor) -> Tensor:
    """For each vector the first one of the same input and tower: what two processes both encoded is one candidate."""
    _, group = torch.unique(torch.stack([numbers, towers]), dim=1, return_inverse=True)
    order = torch.argsort(group, stable=True)
    starts = torch.searchsorted(group[order], torch.arange(int(group.max()) + 1, device=numbers.device))
    return order[starts][group]
