"""Contrastive losses, pure functions of vectors."""

from __future__ import annotations

from collections.abc import Sequence

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
    vectors: Tensor,
    query: Tensor,
    positive: Tensor,
    negatives: Tensor,
    temperature: float,
    symmetric: bool = False,
    same_side: bool = False,
    inputs: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One InfoNCE term over a batch in which equal inputs share one vector.

    Because a candidate that two rows share is one column, an answer that is right for both is never a false negative.
    Nor is an input that is the query itself, or a right answer encoded by the other tower.

    `symmetric` and `same_side` together are NT-Xent (SimCLR, arXiv 2002.05709, eq. 1; RTD, arXiv 2406.09188) over
    the 2B vectors V = [positives; queries], of which v(i) is the partner of V_i:

        L = mean over the 2B rows i of  -log( exp(V_i . v(i) / t) / sum over k != i of exp(V_i . V_k / t) )

    Args:
        vectors: [U, D], one a distinct input of the batch and tower.
        query, positive: [B] int64 rows of `vectors`.
        negatives: [K] int64 rows of `vectors` that join the candidates; may be empty.
        symmetric: average with the direction from positive to query.
        same_side: whatever asks (a query, or backwards a positive) is a negative of the others that ask.
        inputs: [U] int64, equal where two towers encoded the same input; by default all differ.

    Returns: loss and accuracy as `info_nce`.
    """
    inputs = torch.arange(len(vectors), device=vectors.device) if inputs is None else inputs
    beside = query if same_side else query[:0]
    loss, accuracy = _one_way(vectors, query, positive, torch.cat([negatives, beside]), temperature, inputs)
    if symmetric:
        beside = positive if same_side else positive[:0]
        back, _ = _one_way(vectors, positive, query, beside, temperature, inputs)
        loss = (loss + back) / 2
    return loss, accuracy


def _one_way(
    vectors: Tensor, query: Tensor, positive: Tensor, negatives: Tensor, temperature: float, inputs: Tensor
) -> tuple[Tensor, Tensor]:
    columns, where = torch.unique(torch.cat([positive, negatives]), return_inverse=True)
    own, every = where[: len(positive)], torch.arange(len(query), device=vectors.device)
    # what each row leaves out: all right answers of a query that several rows ask, and the query itself
    known = torch.zeros(len(query), len(vectors), dtype=torch.bool, device=vectors.device)
    row, other = torch.nonzero(query[:, None] == query[None], as_tuple=True)
    known[row, inputs[positive[other]]] = True
    known[every, inputs[query]] = True
    ignore = known[:, inputs[columns]]
    ignore[every, own] = False  # but not its own answer
    return info_nce(vectors[query], vectors[columns], own, temperature, ignore)


def nested(vectors: Tensor, dims: Sequence[int]) -> dict[int, Tensor]:
    """The vectors of Matryoshka learning (arXiv 2205.13147, eq. 1, whose importance scales are all 1 here).

    [U, D], L2-normalised -> by each of `dims`, then D: the first so many dimensions, L2-normalised. The loss is the
    mean of those on each, so that the learning rate means the same with and without.
    """
    return {dim: F.normalize(vectors[:, :dim], dim=-1) for dim in dims} | {vectors.shape[1]: vectors}
