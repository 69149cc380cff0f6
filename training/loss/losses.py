"""Contrastive losses, pure functions of vectors: which candidates a query faces, and the InfoNCE over them.

The scores, [B, M], never exist as a whole: `tiled.py` computes them a tile at a time, so that memory grows with B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from .tiled import Found, Known, Pairs, found_in, info_nce

__all__ = ["Asked", "Found", "Weighing", "contrast", "contrast_bank", "distil", "nested"]


@dataclass(frozen=True)
class Weighing:
    """How the scores of a term are weighed.

    Args:
        temperature: divides the cosines; a float, or a scalar tensor that is learned.
        mask_margin: a candidate is left out where it is more similar to the query than the query's own positive by more
            than this: a likely right answer (Qwen3-VL-Embedding's rule, with 0.1). The negatives that a row brought
            itself are never left out.
        hardness: each negative counts exp(hardness x cosine) times (LLaVE, arXiv 2503.04812, and its code).
    """

    temperature: float | Tensor = 0.05
    mask_margin: float | None = None
    hardness: float = 0.0


@dataclass(frozen=True)
class Asked:
    """What the rows of a batch, those of all processes, ask: numbers of vectors, [B] int64 each.

    Args:
        query, positive: the row of `vectors` that asks, and the one that answers.
        negatives: [K] those that join the candidates of every row; `owners` [K] is the row that brought each.
        mine: [R] int64, the rows whose loss this process computes; by default all.
    """

    query: Tensor
    positive: Tensor
    negatives: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    owners: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    mine: Tensor | None = None

    def backwards(self) -> Asked:
        """Each positive asks for its query; nobody brought negatives."""
        return Asked(self.positive, self.query, self.negatives[:0], self.owners[:0], self.mine)


def contrast(
    vectors: Tensor,
    asked: Asked,
    weighing: Weighing,
    symmetric: bool = False,
    same_side: bool = False,
    inputs: Tensor | None = None,
) -> Found:
    """One InfoNCE term over a batch in which equal inputs share one vector.

    Because a candidate that two rows share is one column, an answer that is right for both is never a false negative.
    Nor is an input that is the query itself, or a right answer encoded by the other tower. With the source captions as
    negatives this is the stage-2 loss of InstructCIR (arXiv 2412.05756), with the query pictures that of MagicLens
    (arXiv 2403.19651).

    `symmetric` and `same_side` together are NT-Xent (SimCLR, arXiv 2002.05709, eq. 1; RTD, arXiv 2406.09188) over
    the 2B vectors V = [positives; queries], of which v(i) is the partner of V_i:

        L = mean over the 2B rows i of  -log( exp(V_i . v(i) / t) / sum over k != i of exp(V_i . V_k / t) )

    Args:
        vectors: [U, D] float, L2-normalised.
        symmetric: average with the direction from positive to query.
        same_side: whatever asks (a query, or backwards a positive) is a negative of the others that ask.
        inputs: [U] int64, equal where two vectors are of the same input; by default all differ.

    Returns: the mean loss of the rows in `asked.mine`, and what was seen on the way there (of the direction from query
    to positive).
    """
    inputs = torch.arange(len(vectors), device=vectors.device) if inputs is None else inputs
    found = _one_way(vectors, asked, weighing, same_side, inputs)
    if not symmetric:
        return found
    back = _one_way(vectors, asked.backwards(), weighing, same_side, inputs)
    return found._replace(loss=(found.loss + back.loss) / 2)


def _one_way(vectors: Tensor, asked: Asked, weighing: Weighing, same_side: bool, inputs: Tensor) -> Found:
    beside = asked.query if same_side else asked.query[:0]
    columns, where = torch.unique(torch.cat([asked.positive, asked.negatives, beside]), return_inverse=True)
    own = where[: len(asked.positive)]
    brought = where[len(asked.positive) : len(asked.positive) + len(asked.negatives)]
    every = torch.arange(len(asked.query), device=vectors.device)
    mine = every if asked.mine is None else asked.mine
    query = asked.query[mine]
    known = known_answers(inputs[query], inputs[asked.query], inputs[asked.positive], inputs[columns])
    number = torch.full_like(every, -1).index_put_((mine,), torch.arange(len(mine), device=every.device))
    rows = number[asked.owners]
    return info_nce(
        vectors[query], vectors[columns], own[mine], weighing.temperature, known,
        Pairs(rows[rows >= 0], brought[rows >= 0]),
        weighing.mask_margin, weighing.hardness,
    )  # fmt: skip


def contrast_bank(
    queries: Tensor,
    asks: Tensor,
    bank: Tensor,
    bank_inputs: Tensor,
    positive: Tensor,
    right: tuple[Tensor, Tensor],
    weighing: Weighing,
) -> Found:
    """InfoNCE against a static bank that holds every target of the stage (SPN4CIR, arXiv 2404.11317).

    Args:
        queries: [B, D] float, L2-normalised, what is trained.
        asks: [B] int64, the number of each query's input.
        bank: [M, D] float, L2-normalised, without gradient; `bank_inputs` [M] the number of each vector's input.
        positive: [B] int64 rows of `bank`.
        right: [R] and [R] int64: the input of a query of the stage, and that of an answer that is right for it.
    """
    known = known_answers(asks, *right, bank_inputs)
    return info_nce(queries, bank, positive, weighing.temperature, known, None, weighing.mask_margin, weighing.hardness)


def distil(queries: Tensor, taught: Tensor, bank: Tensor, positive: Tensor, temperature: float | Tensor) -> Found:
    """What a small query encoder learns from a large one whose vectors an index holds.

        L = mean over i of  (1 - q_i . t_i) + KL( softmax(t_i . C / tau) || softmax(q_i . C / tau) )

    After ISA (arXiv 2403.01431), whose global contrastive distillation lets the light side match the large one's
    features against a fixed gallery; here the large model's own composed vector t is matched, and all candidates C are
    the gallery. Takes B x M numbers a few times over.

    Args:
        queries: q [B, D] float, L2-normalised, what is trained.
        taught: t [B, D] float, the teacher's vectors of the same queries.
        bank: C [M, D] float, its vectors of all candidates; none of the three has a gradient.
        positive: [B] int64, the candidate that is right, for the figures alone.
        temperature: tau.
    """
    own = queries @ bank.T
    found, wanted = ((scores / temperature).log_softmax(-1) for scores in (own, taught @ bank.T))
    gap = F.kl_div(found, wanted, log_target=True, reduction="batchmean")
    loss = (1 - (queries * taught).sum(-1)).mean() + gap
    with torch.no_grad():
        right = own.gather(1, positive[:, None])[:, 0]
        others = own.scatter(1, positive[:, None], float("-inf")).amax(1)
        counts = [(right > others).float().mean(), right.mean(), others.mean()]
    return Found(loss, *counts, loss.new_tensor(bank.shape[0] - 1.0), loss.new_tensor(0.0))


def known_answers(asks: Tensor, asked: Tensor, answers: Tensor, columns: Tensor) -> Known:
    """The candidates that each query leaves out: all its right answers in the batch, and itself.

    Grows with B + N + M, however many rows ask the same.

    Args:
        asks: [B] the inputs that ask.
        asked, answers: [N] each, which input was answered by which.
        columns: [M] the candidates' inputs.
    """
    inputs, askers = torch.unique(asks, return_inverse=True)
    order = torch.argsort(asked, stable=True)
    who, at = found_in(inputs, asked[order])
    who = torch.cat([who, torch.arange(len(inputs), device=asks.device)])
    wanted = torch.cat([answers[order[at]], inputs])
    # an answer that an asker got in many rows counts once
    numbers, wanted = torch.unique(wanted, return_inverse=True)
    pairs = torch.unique(who * len(numbers) + wanted)
    who, wanted = pairs // len(numbers), numbers[pairs % len(numbers)]
    order = torch.argsort(columns, stable=True)
    again, at = found_in(wanted, columns[order])
    return Known(askers, Pairs(who[again], order[at]))


def nested(vectors: Tensor, dims: Sequence[int]) -> dict[int, Tensor]:
    """The vectors of Matryoshka learning (arXiv 2205.13147, eq. 1, whose importance scales are all 1 here).

    [U, D], L2-normalised -> by each of `dims`, then D: the first so many dimensions, L2-normalised. The loss is the
    mean of those on each, so that the learning rate means the same with and without.
    """
    return {dim: F.normalize(vectors[:, :dim], dim=-1) for dim in dims} | {vectors.shape[1]: vectors}
