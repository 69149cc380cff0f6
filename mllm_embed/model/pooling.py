"""From hidden states to one vector an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["last", "mean"]


def last_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """The hidden state of each row's last chosen token, whichever side is padded.

    Args: hidden [B, L, H] float; mask [B, L], 1 where a token is chosen. Returns [B, H], dtype of `hidden`.
    """
    positions = torch.arange(mask.shape[1], device=hidden.device)
    last = (mask.to(positions.dtype) * (positions + 1)).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean, in float32, of the hidden states of each row's chosen tokens.

    Over picture and user's words alone, the prompt left out, it is U-MARVEL's pooling.

    Args: hidden [B, L, H] float; mask [B, L], 1 where a token is chosen. Returns [B, H] float32.
    """
    weight = mask.to(torch.float32)[..., None]
    return (hidden.float() * weight).sum(1) / weight.sum(1)


POOLINGS: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {"last": last_token, "mean": mean}
