"""A re-ranker's judgement as a loss: how it shares out a row's list is taught to the vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from .tiled import LossOutput


def lists_of(first: Tensor, others: Tensor, owners: Tensor) -> Tensor:
    """Return what each row has in a list of its own: [R, L] int64, -1 where a row has less than the longest.

    Args:
        first: [R] int64, 0 or more, what stands first in each list.
        others: [K] int64, 0 or more, what stands behind it.
        owners: [K] int64, not falling, the row of each.
    """
    counts = torch.bincount(owners, minlength=len(first))
    longest = 1 + int(counts.max()) if len(first) else 1
    lists = first.new_full((len(first), longest), -1)
    lists[:, 0] = first
    places = torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners]
    lists[owners, 1 + places] = others
    return lists


def judged(
    queries: Tensor,
    candidates: Tensor,
    lists: Tensor,
    scores: Tensor,
    temperature: float | Tensor,
    judge_temperature: float,
) -> LossOutput:
    """Return the divergence of the vectors from a re-ranker over each row's list.

        L = mean over i of  KL( softmax over j of s_ij / T || softmax over j of q_i . c_ij / t )

    What reads a query and a candidate together teaches what encodes them apart, by its distribution over a list, as in
    RocketQAv2 (arXiv 2110.07367); there both learn at once, here the re-ranker's scores are fixed.

    Args:
        queries: q [R, D] float, L2-normalised, one a row.
        candidates: c [N, D] float, L2-normalised, those of all rows.
        lists: [R, L] int64, the candidates of each row, its positive first; -1 for none.
        scores: s [R, L] float, the re-ranker's, NaN where it has none: such a candidate is left out.
        temperature: t.
        judge_temperature: T.

    Returns: the mean over the rows, those with fewer than two candidates counting 0, and figures of the lists.
    """
    known = (lists >= 0) & ~scores.isnan()
    told = known.sum(1) > 1
    cosines = (queries[:, None] * candidates[lists.clamp(min=0)]).sum(-1)
    # rows that tell nothing keep numbers in all places: their divergence counts 0, and no gradient is NaN
    kept = known | ~told[:, None]
    student = (cosines / temperature).masked_fill(~kept, float("-inf")).log_softmax(1).masked_fill(~kept, 0)
    teacher = (scores.nan_to_num(0) / judge_temperature).masked_fill(~kept, float("-inf")).log_softmax(1)
    share = teacher.exp()
    divergence = (share * (teacher.masked_fill(~kept, 0) - student)).sum(1)
    loss = torch.where(told, divergence, divergence * 0).mean()
    return LossOutput(loss, *_figures(cosines.detach(), lists >= 0))


def _figures(cosines: Tensor, there: Tensor) -> tuple[Tensor, ...]:
    """Return the figures of a LossOutput behind its loss, of cosines [R, L] with the positives first."""
    positive, wrong = cosines[:, 0], cosines[:, 1:].masked_fill(~there[:, 1:], float("-inf"))
    hardest = torch.cat([wrong, torch.full_like(cosines[:, :1], float("-inf"))], 1).amax(1)
    none = cosines.new_tensor(0.0)
    return (
        (positive > hardest).float().mean(), positive.mean(), hardest[hardest > float("-inf")].mean(),
        there[:, 1:].sum(1).float().mean(), none, none,
    )  # fmt: skip
