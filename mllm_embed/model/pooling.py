"""From hidden states to one vector an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["last", "mean"]


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


POOLINGS: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {"last": last_token, "mean": mean}
