"""One batch over all processes: the vectors of all, with gradients, and where each row's inputs lie among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from ..batch.collator import ContrastiveBatch
from ..recipe.stage_keys.terms import RoleUse


@dataclass(frozen=True)
class GatheredBatch:
    """The rows of all processes, in the processes' order.

    Args:
        vectors: [N, D] or [N, T, D] float32, L2-normalised; gradients of every process's loss reach the process that
            made them.
        inputs: [N] int64, for each vector a number that equal inputs share, as in ContrastiveBatch.
        places: by use [B] int64 into `vectors`, B the rows of all processes; of hard negatives [K]. Equal inputs that
            were encoded alike have one place.
        owners: [K] int64, the row that brought each hard negative.
        keys: as ContrastiveBatch's: by role the keys of the rows' inputs, and what the rows tell themselves.
        local_rows: [R] int64, the rows of this process.
        rows: B.
        guide: [V, Dg] float16, the guide's vectors of all; None without a guide.
        guide_places: by use as `places`, but rows of `guide`.
    """

    vectors: Tensor
    inputs: Tensor
    places: dict[RoleUse, Tensor]
    owners: Tensor
    keys: dict[str, Tensor]
    local_rows: Tensor
    rows: int
    guide: Tensor | None = None
    guide_places: dict[RoleUse, Tensor] = field(default_factory=dict)

    def owners_of(self, use: RoleUse) -> Tensor:
        """Return the row that brought each input of a role, [B] int64; of hard negatives [K]."""
        return self.owners if use.role == "hard_negative" else torch.arange(self.rows, device=self.inputs.device)


def world() -> tuple[int, int]:
    """Return this process's number, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def agreed(question: Callable[[], int], device: torch.device) -> int:
    """Return in every process what the first one finds: a shared disk may show the others an older state."""
    rank, count = world()
    answer = torch.tensor(int(question()) if rank == 0 else 0, device=device)
    if count > 1:
        dist.broadcast(answer, 0)
    return int(answer)


def mean_of_all(values: Tensor) -> Tensor:
    """Return this process's part of the mean over values [P] of all processes, 0 where none has any: that mean is the
    mean of the processes' parts, as of their losses. All processes call it."""
    processes, count = world()[1], torch.tensor(len(values), device=values.device)
    if processes > 1:
        dist.all_reduce(count)
    return values.sum() * processes / count.clamp(min=1)


def gather(vectors: Tensor, batch: ContrastiveBatch, rows: int) -> GatheredBatch:
    """Return the batches of all processes as one. A process alone sends nothing and keeps its vectors.

    Args:
        vectors: [U, D] or [U, T, D] float, those of `batch`, with gradient.
        batch: this process's own.
        rows: how many each process has; the same for all.
    """
    device = vectors.device
    rank, count = world()
    inputs, owners = batch.inputs.to(device), batch.owners.to(device)
    places = {use: place.to(device) for use, place in batch.places.items()}
    keys = {role: key.to(device) for role, key in batch.keys.items()}
    guide, guide_places = _gathered_guide(batch, device)
    if count == 1:
        every_row = torch.arange(rows, device=device)
        return GatheredBatch(vectors, inputs, places, owners, keys, every_row, rows, guide, guide_places)
    # collective calls: every process must make the same ones in the same order, whatever its own batch holds
    numbers = gather_ragged(inputs)
    frozen = torch.cat(gather_ragged(_frozen(batch, device)))
    lengths = [len(part) for part in numbers]
    every = torch.cat(numbers)
    same = _first_equal(every, frozen)
    merged = {use: same[_shifted(gather_ragged(place), lengths)] for use, place in places.items()}
    return GatheredBatch(
        vectors=torch.cat(_gather_with_gradient(_as_many_as_the_most(vectors), lengths)),
        inputs=every,
        places=merged,
        owners=_shifted(gather_ragged(owners), [rows] * count),
        keys={role: torch.cat(gather_ragged(key)) for role, key in keys.items()},
        local_rows=torch.arange(rank * rows, (rank + 1) * rows, device=device),
        rows=rows * count,
        guide=guide,
        guide_places=guide_places,
    )


def _gathered_guide(batch: ContrastiveBatch, device: torch.device) -> tuple[Tensor | None, dict[RoleUse, Tensor]]:
    """Return the guide's vectors of all processes, and by use where they lie. All have a guide, or none."""
    if batch.guide is None:
        return None, {}
    mine = batch.guide.to(device)
    places = {use: place.to(device) for use, place in batch.guide_places.items()}
    if world()[1] == 1:
        return mine, places
    parts = gather_ragged(mine)
    lengths = list(map(len, parts))
    return torch.cat(parts), {use: _shifted(gather_ragged(place), lengths) for use, place in places.items()}


def _frozen(batch: ContrastiveBatch, device: torch.device) -> Tensor:
    """Return for each vector of a batch, [U] int64, 1 where it comes from the model without its adapter."""
    live = sum(len(chunk["input_ids"]) for chunk in batch.live)
    encoded = (torch.arange(len(batch.inputs) - len(batch.avoided), device=device) >= live).long()
    return torch.cat([encoded, encoded[batch.avoided[:, 0].to(device)]])


def _shifted(parts: list[Tensor], lengths: list[int]) -> Tensor:
    """Return each process's numbers as numbers into what all have, of which it has `lengths`, one after the other."""
    shifted, start = [], 0
    for part, length in zip(parts, lengths, strict=True):
        shifted.append(part + start)
        start += length
    return torch.cat(shifted)


def gather_ragged(values: Tensor) -> list[Tensor]:
    """Return each process's tensor, without gradient; they may differ in length: [n, ...] -> world x [n_r, ...]."""
    length = torch.tensor([len(values)], device=values.device)
    lengths = [torch.zeros_like(length) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, length)
    most = int(max(lengths))
    # a collective call takes equal shapes, so all send as much as the longest has
    padded = values.new_zeros(most, *values.shape[1:])
    padded[: len(values)] = values
    parts = [torch.zeros_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return [part[: int(n)] for part, n in zip(parts, lengths, strict=True)]


def interleaved(parts: list[Tensor]) -> Tensor:
    """Return the processes' shares values[rank::world], [n_r, ...], put together again: [n, ...]."""
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
        # every process's loss is a function of this one's vectors, and DDP later takes the mean of the processes'
        # gradients: the sum here is what makes both together the gradient of the mean loss. gloo has no reduce-scatter,
        # which would send half.
        summed = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed[dist.get_rank()]


def _as_many_as_the_most(vectors: Tensor) -> Tensor:
    """Return several vectors an input, [U, T, D], with zeros behind them up to the T of the process with the most; all
    processes call it."""
    if vectors.dim() == 2:
        return vectors
    most = torch.tensor(vectors.shape[1], device=vectors.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return pad(vectors, (0, 0, 0, int(most) - vectors.shape[1]))


def _gather_with_gradient(vectors: Tensor, lengths: list[int]) -> list[Tensor]:
    padded = torch.cat([vectors, vectors.new_zeros(max(lengths) - len(vectors), *vectors.shape[1:])])
    return [part[:length] for part, length in zip(_AllGather.apply(padded), lengths, strict=True)]


def _first_equal(numbers: Tensor, frozen: Tensor) -> Tensor:
    """Return for each vector, [N] int64, the first one of the same input that was encoded alike.

    What two processes both encoded is then one candidate, not a false negative of itself.
    """
    _, group = torch.unique(torch.stack([numbers, frozen]), dim=1, return_inverse=True)
    order = torch.argsort(group, stable=True)  # stable, so that every process chooses the same one
    starts = torch.searchsorted(group[order], torch.arange(int(group.max()) + 1, device=numbers.device))
    return order[starts][group]
