"""From hidden states to one vector an input, or to one a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError

if TYPE_CHECKING:
    from .families import Family

Pooling = Literal["last", "mean", "first", "max", "weightedmean", "mean_sqrt_len_tokens", "multi"]


def last_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the hidden state of each row's last chosen token, whichever side is padded: [B, H], dtype of `hidden`.

    Args:
        hidden: [B, L, H] float.
        mask: [B, L], 1 where a token is chosen.
    """
    # the largest of the chosen positions, counted from 1, so that those not chosen are the smallest
    positions = torch.arange(mask.shape[1], device=hidden.device)
    last = (mask.to(positions.dtype) * (positions + 1)).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the hidden states of each row's chosen tokens: [B, H] float32.

    Over picture and user's words alone, the prompt left out, it is U-MARVEL's pooling.

    Args:
        hidden: [B, L, H] float.
        mask: [B, L], 1 where a token is chosen.
    """
    weight = mask.to(torch.float32)[..., None]
    return (hidden.float() * weight).sum(1) / weight.sum(1)


def first_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the hidden state of each row's first chosen token: [B, H], dtype of `hidden`. Arguments as of `mean`."""
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.to(torch.uint8).argmax(1)]


def largest(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the largest of each number of the hidden states of each row's chosen tokens: [B, H], dtype of `hidden`.

    Arguments as of `mean`.
    """
    return hidden.masked_fill(mask[..., None] == 0, float("-inf")).amax(1)


def weighted_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the hidden states of each row's chosen tokens, in which a token weighs as much as its place
    among them, from 1 on: [B, H] float32 (SGPT, arXiv 2202.08904). Arguments as of `mean`."""
    chosen = mask.to(torch.float32)
    weight = (chosen * chosen.cumsum(1))[..., None]
    return (hidden.float() * weight).sum(1) / weight.sum(1)


def mean_by_root(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the sum of the hidden states of each row's chosen tokens over the root of their number: [B, H] float32.

    Arguments as of `mean`. It differs from that only where something comes before vectors are normalised.
    """
    return mean(hidden, mask) * mask.sum(1, keepdim=True).sqrt()


def each_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the hidden states of each row's chosen tokens in their order, for late interaction: [B, T, H] float32, T
    the most that a row has, zeros behind those of a row with fewer. Arguments as of `mean`."""
    chosen = mask.bool()
    counts = chosen.sum(1)
    states = hidden.new_zeros(len(hidden), int(counts.max()), hidden.shape[2], dtype=torch.float32)
    there = torch.arange(states.shape[1], device=hidden.device) < counts[:, None]
    # in order of rows and of tokens on both sides; not in place, so that a gradient comes back
    return states.masked_scatter(there[..., None], hidden[chosen].float())


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Return what poolings gave for parts of a list, [n, ...] each, one after the other: [N, ...]. Of several vectors
    an input all get as many as the most, zeros behind their own."""
    if parts[0].dim() < 3:
        return torch.cat(list(parts))
    most = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, 0, 0, most - part.shape[1])) for part in parts])


# "last" and "first" are this library's names for what sentence-transformers calls "lasttoken" and "cls".
POOLINGS: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {
    "last": last_token,
    "mean": mean,
    "first": first_token,
    "max": largest,
    "weightedmean": weighted_mean,
    "mean_sqrt_len_tokens": mean_by_root,
    "multi": each_token,
}
MULTI: frozenset[Pooling] = frozenset({"multi"})
"""Those that give several vectors an input."""


def check_pooling(pooling: Pooling, family: Family) -> None:
    """Raise ConfigError for a vector a token of a family whose pictures have no tokens of their own."""
    if pooling in MULTI and not family.pictures_in_row:
        raise ConfigError(
            f"pooling '{pooling}' takes a vector of each of a picture's tokens, and this model, which looks at "
            "pictures through cross-attention, has none; take another pooling, or another model"
        )
