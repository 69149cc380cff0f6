"""The loss of a thought: how likely the model finds each next token of one that it is taught."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mllm_embed.thoughts.writer import UNTAUGHT


def thought_losses(hidden: Tensor, labels: Tensor, head: nn.Linear) -> Tensor:
    """Return the cross-entropy (nats) of each row's labels, the mean over its labels: [B] float32, 0 without any.

    A label is what the state of the token before it must lead to. Logits are computed for labels alone, since a
    vocabulary is larger than a state by far.

    Args:
        hidden: [B, L, H] the states of a batch.
        labels: [B, L] int64, UNTAUGHT where there is none; the first column has none.
        head: gives the logits [V] of a state.
    """
    rows, places = (labels[:, 1:] != UNTAUGHT).nonzero(as_tuple=True)
    logits = head(hidden[rows, places].to(head.weight.dtype)).float()
    losses = F.cross_entropy(logits, labels[rows, places + 1], reduction="none")
    zeros = losses.new_zeros(len(labels))
    counts = zeros.index_add(0, rows, torch.ones_like(losses))
    return zeros.index_add(0, rows, losses) / counts.clamp(min=1)
