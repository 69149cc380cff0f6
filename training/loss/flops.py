"""The FLOPS penalty: how many products a search by an inverted index takes, made small."""

from __future__ import annotations

from torch import Tensor

_GROWS = 3  # over the first 1/3 of a stage


def flops(vectors: Tensor) -> Tensor:
    """Return the FLOPS penalty of lexical vectors, a scalar (Paria et al., arXiv 2004.05665, as SPLADE has it).

        L = sum over the words j of ( mean over the inputs i of w_ij )^2

    Of vectors of unit length, as ours are, that is the mean of all their dot products: it wants what is said of
    everything to be said of nothing, and leaves what tells inputs apart.

    Args:
        vectors: w [N, V] float32, 0 or more.
    """
    return vectors.mean(0).square().sum()


def share_of_penalty(step: int, steps: int) -> float:
    """Return the share of its weight that the penalty has in a step, which grows with the square of it, as
    SPLADE's does (arXiv 2107.05720), over the first third of a stage.

    Args:
        step: counted from 0.
        steps: of the stage's first part, so that one that is given more is what it was.
    """
    return min(1.0, (_GROWS * (step + 1) / max(steps, 1)) ** 2)
