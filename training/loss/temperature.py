"""The temperature of a contrastive loss, fixed or learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Temperature(nn.Module):
    """A temperature: `start`, or with `bounds` a parameter that starts there and never leaves them.

    The parameter p gives low (high / low) ** sigmoid(p): within the bounds whatever the optimiser does, even one that
    keeps a copy of its own of the parameter, and never without a gradient as a clamped one is.
    """

    def __init__(self, start: float, bounds: tuple[float, float] | None = None):
        """Start at `start`, which lies between the two `bounds` where they are given."""
        super().__init__()
        self.start, self.bounds = start, bounds
        if bounds:
            low, high = bounds
            share = math.log(start / low) / math.log(high / low)
            self.position = nn.Parameter(torch.tensor([math.log(share / (1 - share))]))  # DeepSpeed takes no scalar

    def forward(self) -> Tensor:
        """Return the temperature, a scalar float32; learned, it has a gradient."""
        if not self.bounds:
            return torch.tensor(self.start)
        low, high = self.bounds
        return low * (high / low) ** torch.sigmoid(self.position[0].float())
