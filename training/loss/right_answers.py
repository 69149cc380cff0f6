"""Which candidates of a batch are neither right nor wrong for a query, found by the numbers and keys of inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from .tiled import Ignored, Pairs, equal_pairs


def right_answers(asks: Tensor, asked: Tensor, answers: Tensor, columns: Tensor) -> Ignored:
    """Return the candidates that each query leaves out: all its right answers in the batch, and itself.

    Grows with B + N + M, however many rows ask the same.

    Args:
        asks: [B] int64, the inputs that ask.
        asked: [N] int64, an input that some row asks.
        answers: [N] int64, the input that is that row's answer.
        columns: [M] int64, the candidates' inputs.
    """
    inputs, askers = torch.unique(asks, return_inverse=True)
    order = torch.argsort(asked, stable=True)
    owners, rows = equal_pairs(inputs, asked[order])
    # every asker is a right answer to itself: it must not push its own vector away
    owners = torch.cat([owners, torch.arange(len(inputs), device=asks.device)])
    right = torch.cat([answers[order[rows]], inputs])
    # an answer that an asker got in many rows counts once
    numbers, right = torch.unique(right, return_inverse=True)
    pairs = torch.unique(owners * len(numbers) + right)
    owners, right = pairs // len(numbers), numbers[pairs % len(numbers)]
    order = torch.argsort(columns, stable=True)
    places, rows = equal_pairs(right, columns[order])
    return Ignored(askers, Pairs(owners[places], order[rows]))


def joined(one: Ignored, other: Ignored, columns: int) -> Ignored:
    """Return what either of two leaves out of so many candidates, whose askers are numbered apart."""
    count = max(len(other.askers), 1)  # more than there are askers
    both, askers = torch.unique(one.askers * count + other.askers, return_inverse=True)
    pairs = []
    for own, ignored in ((both // count, one), (both % count, other)):
        owners, places = equal_pairs(own, ignored.pairs.rows)
        pairs.append(owners * columns + ignored.pairs.columns[places])
    every = torch.unique(torch.cat(pairs))
    return Ignored(askers, Pairs(every // columns, every % columns))


def left_out(ignored: Ignored, asks: Tensor, answers: Tensor, columns: Tensor) -> Tensor:
    """Return the mean number of candidates that rows leave out, apart from their own answers and themselves.

    Args:
        ignored: what they leave out, their own answers among it.
        asks, answers: [B] int64, the inputs of the rows.
        columns: [M] int64, those of the candidates.
    """
    counts = torch.bincount(ignored.pairs.rows, minlength=len(asks))[ignored.askers]
    increasing = columns.sort().values
    itself = torch.searchsorted(increasing, asks, right=True) - torch.searchsorted(increasing, asks)
    own = (answers != asks).long()
    return (counts - itself - own).float().mean()


def second_twins(inputs: Tensor, keys: Tensor, where: Tensor) -> Tensor:
    """Return the candidates [T] int64 that show what another one shows, near-twins: a group counts as one candidate.

    The one whose number is the least stays, which is the same one in every process. Those of one input, live and
    frozen, all stay.

    Args:
        inputs: [M] int64, the candidates' inputs.
        keys: [N] int64, of what stands among the candidates, equal for twins.
        where: [N] int64, the candidate of each.
    """
    most = torch.full_like(inputs, torch.iinfo(torch.long).max)
    key = most.scatter_reduce(0, where, keys, "amin")  # of pictures of equal pixels under several names, the first
    order = torch.argsort(inputs, stable=True)
    order = order[torch.argsort(key[order], stable=True)]
    starts = torch.ones_like(order, dtype=torch.bool)
    starts[1:] = key[order][1:] != key[order][:-1]
    first = order[starts][starts.long().cumsum(0) - 1]
    return order[inputs[order] != inputs[first]]
