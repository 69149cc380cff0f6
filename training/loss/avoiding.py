"""Queries that are turned away from what they must avoid, with gradient: as they are searched with, so trained."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mllm_embed.vectors.avoiding import WEIGHT


def avoiding(queries: Tensor, avoided: Tensor, weight: float = WEIGHT) -> Tensor:
    """Return what `mllm_embed.vectors.avoiding` does, with gradients to both sides.

        q' = (q - w (a - (a . q) q)) / |q - w (a - (a . q) q)|

    Args:
        queries: q [N, D] float, L2-normalised.
        avoided: a [N, D] float, L2-normalised, the words of each query's `avoid`.
        weight: w.

    Returns: [N, D] float, L2-normalised.
    """
    along = (avoided * queries).sum(-1, keepdim=True)
    return F.normalize(queries - weight * (avoided - along * queries), dim=-1)
