"""Contrastive losses, pure functions of vectors: which candidates a query is compared with, and the InfoNCE over them.

The scores, [B, M], never exist as a whole: `tiled.py` computes them a tile at a time, so that memory grows with B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..false_negatives.guide import Guided, GuideRule
from .right_answers import joined, left_out, right_answers, second_twins
from .tiled import Ignored, LossOutput, Pairs, info_nce

__all__ = [
    "BatchIndices", "Guidance", "KnownRight", "LossOptions", "LossOutput",
    "contrast", "contrast_bank", "distil", "nested",
]  # fmt: skip


@dataclass(frozen=True)
class LossOptions:
    """The settings by which the cosines of a term become its loss.

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
class BatchIndices:
    """The queries, positives and negatives of a batch, that of all processes: numbers of vectors, int64.

    B is the number of rows, K that of the negatives which rows brought.

    Args:
        query: [B] the vector of each row that asks.
        positive: [B] the vector that answers it.
        negatives: [K] vectors that join the candidates of every row.
        owners: [K] the row that brought each of the negatives.
        local_rows: [R] the rows whose loss this process computes; by default all.
    """

    query: Tensor
    positive: Tensor
    negatives: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    owners: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    local_rows: Tensor | None = None

    def reversed(self) -> BatchIndices:
        """Return the other direction: each positive asks for its query, and no row brought negatives."""
        return BatchIndices(self.positive, self.query, self.negatives[:0], self.owners[:0], self.local_rows)


@dataclass(frozen=True)
class Guidance:
    """What a guide knows of a batch.

    Args:
        vectors: [V, Dg] float, L2-normalised, the guide's; NaN for an input of which it has none.
        indices: as those of the loss, but numbers of these vectors.
        spared: [K] bool, which of the negatives are wrong for the row that brought them by the role that they play, say
            its own reference picture: no guide leaves those out. Hard negatives that were mined or chosen may be right
            after all, and GIST masks them too.
        rule: how near is too near.
    """

    vectors: Tensor
    indices: BatchIndices
    spared: Tensor
    rule: GuideRule

    def reversed(self) -> Guidance:
        """Return the other direction, as `BatchIndices.reversed` does."""
        return replace(self, indices=self.indices.reversed(), spared=self.spared[:0])

    def of_columns(self, where: Tensor, columns: int, same_side: bool) -> Tensor:
        """Return the guide's vectors [M, Dg] of the columns at `where` of positives, negatives and, on the `same_side`,
        queries. Of inputs that share a column, and that the guide tells apart, the first vector counts."""
        indices = self.indices
        given = torch.cat([indices.positive, indices.negatives, indices.query if same_side else indices.query[:0]])
        first = torch.full((columns,), len(self.vectors), dtype=torch.long, device=where.device)
        return self.vectors[first.scatter_reduce_(0, where, given, "amin")]


@dataclass(frozen=True)
class KnownRight:
    """What is known to be right beyond the rows of the batch, by the keys of inputs.

    Args:
        query, positive, negatives: [B], [B] and [K] int64, the keys of what `BatchIndices` lists.
        asked: [P] int64, the keys of what asks, of what this process's rows ask at least.
        answers: [P] int64, the key of an input that is right for it.
    """

    query: Tensor
    positive: Tensor
    negatives: Tensor
    asked: Tensor
    answers: Tensor

    def reversed(self) -> KnownRight:
        """Return the other direction, as `BatchIndices.reversed`."""
        return replace(self, query=self.positive, positive=self.query, negatives=self.negatives[:0])


def contrast(
    vectors: Tensor,
    indices: BatchIndices,
    options: LossOptions,
    symmetric: bool = False,
    same_side: bool = False,
    inputs: Tensor | None = None,
    guidance: Guidance | None = None,
    known: KnownRight | None = None,
) -> LossOutput:
    """Return the loss of one InfoNCE term over a batch in which equal inputs share one vector.

    Because a candidate that two rows share is one column, an answer that is right for both is never a false negative.
    Nor is an input that is the query itself, or a right answer encoded by the frozen model. With the source captions as
    negatives this is the stage-2 loss of InstructCIR (arXiv 2412.05756), with the query pictures that of MagicLens
    (arXiv 2403.19651).

    `symmetric` and `same_side` together are NT-Xent (SimCLR, arXiv 2002.05709, eq. 1; RTD, arXiv 2406.09188) over
    the 2B vectors V = [positives; queries], of which v(i) is the partner of V_i:

        L = mean over the 2B rows i of  -log( exp(V_i . v(i) / t) / sum over k != i of exp(V_i . V_k / t) )

    Args:
        vectors: [U, D] float, L2-normalised, or several an input, [U, T, D] as of `similarity`.
        indices: which of them ask, answer, or are negatives.
        options: temperature, mask and hardness.
        symmetric: average with the direction from positive to query.
        same_side: whatever asks (a query, or backwards a positive) is a negative of the others that ask.
        inputs: [U] int64, equal where two vectors are of the same input; by default all differ.
        guidance: what a guide finds nearer than the positive is left out, in both directions and on the same side.
        known: what else is right for whom.

    Returns: the mean loss of the rows in `indices.local_rows`, a scalar of at least float32, with the figures of the
    direction from query to positive.
    """
    inputs = torch.arange(len(vectors), device=vectors.device) if inputs is None else inputs
    forwards = _one_way(vectors, indices, options, same_side, inputs, guidance, known)
    if not symmetric:
        return forwards
    backwards = _one_way(
        vectors, indices.reversed(), options, same_side, inputs, guidance and guidance.reversed(),
        known and known.reversed(),
    )  # fmt: skip
    return forwards._replace(loss=(forwards.loss + backwards.loss) / 2)


def _one_way(
    vectors: Tensor,
    indices: BatchIndices,
    options: LossOptions,
    same_side: bool,
    inputs: Tensor,
    guidance: Guidance | None,
    known: KnownRight | None,
) -> LossOutput:
    beside = indices.query if same_side else indices.query[:0]
    # one column for each different vector, so that two rows with one target share it
    columns, where = torch.unique(torch.cat([indices.positive, indices.negatives, beside]), return_inverse=True)
    positives = where[: len(indices.positive)]
    brought = where[len(indices.positive) : len(indices.positive) + len(indices.negatives)]
    every = torch.arange(len(indices.query), device=vectors.device)
    local = every if indices.local_rows is None else indices.local_rows
    query = indices.query[local]
    ignored = right_answers(inputs[query], inputs[indices.query], inputs[indices.positive], inputs[columns])
    if known:
        named = torch.cat([known.positive, known.negatives, known.query if same_side else known.query[:0]])
        further = right_answers(known.query[local], known.asked, known.answers, named)
        # an input that stands among the candidates under several keys is one column
        named_columns = Pairs(further.pairs.rows, where[further.pairs.columns])
        ignored = joined(ignored, Ignored(further.askers, named_columns), len(columns))
        ignored = ignored._replace(twins=second_twins(inputs[columns], named, where))
    # the scores have a row for each local row alone: -1 where another process computes the owner's loss
    number = torch.full_like(every, -1).index_put_((local,), torch.arange(len(local), device=every.device))
    owners = number[indices.owners]
    guided = spared = None
    if guidance:
        asking, right = guidance.indices.query[local], guidance.indices.positive[local]
        found = guidance.of_columns(where, len(columns), same_side)
        guided = Guided.of(guidance.vectors[asking], found, guidance.vectors[right], guidance.rule)
        kept = (owners >= 0) & guidance.spared
        spared = Pairs(owners[kept], brought[kept])
    output = info_nce(
        vectors[query], vectors[columns], positives[local], options.temperature, ignored,
        Pairs(owners[owners >= 0], brought[owners >= 0]),
        options.mask_margin, options.hardness, guided=guided, spared=spared,
    )  # fmt: skip
    share = left_out(ignored, inputs[query], inputs[indices.positive[local]], inputs[columns])
    return output._replace(left_out=share.to(output.loss.dtype))


def contrast_bank(
    queries: Tensor,
    asks: Tensor,
    bank: Tensor,
    bank_inputs: Tensor,
    positive: Tensor,
    right: tuple[Tensor, Tensor],
    options: LossOptions,
    guided: Guided | None = None,
    spared: Pairs | None = None,
) -> LossOutput:
    """Return the InfoNCE against a static bank that holds every target of the stage (SPN4CIR, arXiv 2404.11317).

    Args:
        queries: [B, D] float, L2-normalised, what is trained.
        asks: [B] int64, the number of each query's input.
        bank: [M, D] float, L2-normalised, without gradient.
        bank_inputs: [M] int64, the number of each candidate's input.
        positive: [B] int64 rows of `bank`.
        right: [R] and [R] int64: the input of a query, and that of an answer that is right for it anywhere in the
            stage.
        options: temperature, mask and hardness.
        guided: what a guide says of these queries and candidates.
        spared: a query and a row of `bank` that the guide does not concern: what is wrong by the role that it plays.
    """
    ignored = right_answers(asks, *right, bank_inputs)
    output = info_nce(
        queries, bank, positive, options.temperature, ignored, None, options.mask_margin, options.hardness,
        guided=guided, spared=spared,
    )  # fmt: skip
    share = left_out(ignored, asks, bank_inputs[positive], bank_inputs)
    return output._replace(left_out=share.to(output.loss.dtype))


def distil(queries: Tensor, taught: Tensor, bank: Tensor, positive: Tensor, temperature: float | Tensor) -> LossOutput:
    """Return the loss by which a small query encoder learns from a large one whose vectors an index holds.

        L = mean over i of  (1 - q_i . t_i) + KL( softmax(t_i . C / tau) || softmax(q_i . C / tau) )

    After ISA (arXiv 2403.01431), whose global contrastive distillation lets the light side match the large one's
    features against a fixed gallery; here the large model's own composed vector t is matched, and all candidates C are
    the gallery. Takes B x M numbers a few times over.

    Args:
        queries: q [B, D] float, L2-normalised, what is trained.
        taught: t [B, D] float, L2-normalised, the teacher's vectors of the same queries.
        bank: C [M, D] float, L2-normalised, the teacher's vectors of all candidates; only `queries` has a gradient.
        positive: [B] int64, the candidate that is right, for the figures alone.
        temperature: tau.
    """
    scores = queries @ bank.T
    student = (scores / temperature).log_softmax(-1)
    teacher = ((taught @ bank.T) / temperature).log_softmax(-1)
    divergence = F.kl_div(student, teacher, log_target=True, reduction="batchmean")
    loss = (1 - (queries * taught).sum(-1)).mean() + divergence
    with torch.no_grad():
        right = scores.gather(1, positive[:, None])[:, 0]
        others = scores.scatter(1, positive[:, None], float("-inf")).amax(1)
        return LossOutput(
            loss=loss,
            accuracy=(right > others).float().mean(),
            positive=right.mean(),
            hardest=others.mean(),
            negatives=loss.new_tensor(bank.shape[0] - 1.0),
            masked=loss.new_tensor(0.0),
            guided=loss.new_tensor(0.0),
        )


def nested(vectors: Tensor, dims: Sequence[int]) -> dict[int, Tensor]:
    """Return the vectors of Matryoshka learning (arXiv 2205.13147, eq. 1, whose importance scales are all 1 here).

    The loss is the mean of those on each, so that the learning rate means the same with and without.

    Args:
        vectors: [U, ..., D] float, L2-normalised.
        dims: numbers of first dimensions d, each below D.

    Returns: by each d the first so many dimensions [U, ..., d], L2-normalised; by D the vectors themselves.
    """
    return {dim: F.normalize(vectors[..., :dim], dim=-1) for dim in dims} | {vectors.shape[-1]: vectors}
