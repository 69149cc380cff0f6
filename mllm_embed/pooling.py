"""From hidden states to one vector."""

from __future__ import annotations

import torch
from torch import Tensor


def last_token(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """The hidden state of each row's last real token, whichever side is padded.

    Args: hidden [B, L, H] float; attention_mask [B, L], 1 where a token is real. Returns [B, H], dtype of `hidden`.
    """
    positions = torch.arange(attention_mask.shape[1], device=hidden.device)
    last = (attention_mask.to(positions.dtype) * (positions + 1)).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]
