"""From hidden states to one vector an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["last", "mean", "first", "max", "weightedmean", "mean_sqrt_len_tokens"]


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


# "last" and "first" are this library's names for what sentence-transformers calls "lasttoken" and "cls".
POOLINGS: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {
    "last": last_token,
    "mean": mean,
    "first": first_token,
    "max": largest,
    "weightedmean": weighted_mean,
    "mean_sqrt_len_tokens": mean_by_root,
}
