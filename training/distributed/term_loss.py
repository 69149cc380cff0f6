"""The loss of one term over the rows of all processes: which vectors ask, answer and are negatives in it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..false_negatives.guide import GuideRule
from ..loss.losses import BatchIndices, Guidance, KnownRight, LossOptions, LossOutput, contrast
from ..recipe.stage_keys.terms import RoleUse, Term
from .gathering import GatheredBatch


def term_loss(
    term: Term,
    gathered: GatheredBatch,
    options: LossOptions,
    rule: GuideRule | None = None,
    right: tuple[Tensor, Tensor] | None = None,
) -> LossOutput:
    """Return the InfoNCE of a term over the rows of all processes, of which this one computes its own.

    Several queries of a term are so many times the rows, which share one softmax. With a guide in the batch, `rule`
    says how near is too near for it. `right` is what else is right for what asks in this process's rows, by keys, [P]
    and [P] int64.
    """
    indices = _indices(term, gathered, gathered.places)
    guidance = None
    if rule is not None and gathered.guide is not None:
        spared = [torch.full_like(gathered.places[use], use.role != "hard_negative") for use in term.hard_negatives]
        fixed = torch.cat(spared or [gathered.inputs[:0]]).bool().repeat(len(term.queries))
        guidance = Guidance(gathered.guide, _indices(term, gathered, gathered.guide_places), fixed, rule)
    known = None if right is None else _known_right(term, gathered, *right)
    return contrast(
        gathered.vectors, indices, options, term.symmetric, term.same_side, gathered.inputs, guidance, known
    )


def _indices(term: Term, gathered: GatheredBatch, places: dict[RoleUse, Tensor]) -> BatchIndices:
    """Return what asks, answers and is negative in a term, by the numbers that `places` gives."""
    rows, times = gathered.rows, len(term.queries)
    starts = torch.arange(times, device=gathered.vectors.device)[:, None] * rows
    negatives = torch.cat([places[use] for use in term.hard_negatives] or [gathered.inputs[:0]])
    owners = torch.cat([gathered.owners_of(use) for use in term.hard_negatives] or [gathered.inputs[:0]])
    return BatchIndices(
        query=torch.cat([places[use] for use in term.queries]),
        positive=torch.cat([places[use] for use in term.positives]),
        negatives=negatives.repeat(times),
        owners=(owners + starts).flatten(),
        local_rows=(gathered.local_rows + starts).flatten(),
    )


def _known_right(term: Term, gathered: GatheredBatch, asked: Tensor, answers: Tensor) -> KnownRight:
    """Return the keys of a term's inputs, in the order of its `BatchIndices`, with what is right for them."""
    keys, times = gathered.keys, len(term.queries)
    return KnownRight(
        query=torch.cat([keys[role] for role in term.query]),
        positive=torch.cat([keys[role] for role in term.positive]),
        negatives=torch.cat([keys[role] for role in term.negatives] or [gathered.inputs[:0]]).repeat(times),
        asked=asked,
        answers=answers,
    )
