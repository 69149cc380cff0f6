"""Contrastive losses, pure functions of vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(
    queries: Tensor, candidates: Tensor, positives: Tensor, temperature: float, ignore: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """InfoNCE (van den Oord et al. 2018, eq. 4) of queries against one shared set of candidates.

    With candidates = [targets; hard negatives] this is the stage-2 loss of InstructCIR (arXiv 2412.05756) and, with the
    query pictures as hard negatives, the loss of MagicLens (arXiv 2403.19651).

    Args:
        queries: [B, D] float, L2-normalised.
        candidates: [M, D] float, L2-normalised.
        positives: [B] int64, the row of `candidates` that answers each query.
        temperature: divides the cosines.
        ignore: [B, M] bool, pairs that are neither right nor wrong (a second right answer); never the positive.

    Returns:
        The mean loss (scalar) and the mean rate, in 0..1, at which the positive scores highest (scalar, no gradient).
    """
    logits = queries.float() @ candidates.float().T / temperature
    if ignore is not None:
        logits = logits.masked_fill(ignore, float("-inf"))
    return F.cross_entropy(logits, positives), (logits.argmax(1) == positives).float().mean().detach()


def contrast(
    vectors: Tensor, query: Tensor, positive: Tensor, negatives: Tensor, temperature: float, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """One InfoNCE term over a batch in which equal inputs share one vector.

    Because a candidate that two rows share is one column, an answer that is right for both is never a false negative.

    Args:
        vectors: [U, D], one a distinct input of the batch.
        query, positive: [B] int64 rows of `vectors`.
        negatives: [K] int64 rows of `vectors` that join the candidates; may be empty.
        symmetric: average with the direction from positive to query.

    Returns: loss and accuracy as `info_nce`.
    """
    loss, accuracy = _one_way(vectors, query, positive, negatives, temperature)
    if symmetric:
        back, _ = _one_way(vectors, positive, query, negatives[:0], temperature)
        loss = (loss + back) / 2
    return loss, accuracy


def _one_way(
    vectors: Tensor, query: Tensor, positive: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    columns, where = torch.unique(torch.cat([positive, negatives]), return_inverse=True)
    own = where[: len(positive)]
    # where one query has several positives in the batch, each row leaves the other rows' ones out
    row, other = torch.nonzero(query[:, None] == query[None], as_tuple=True)
    ignore = torch.zeros(len(query), len(columns), dtype=torch.bool, device=vectors.device)
    ignore[row, own[other]] = True
    ignore[torch.arange(len(query), device=vectors.device), own] = False
    return info_nce(vectors[query], vectors[columns], own, temperature, ignore)
