"""InfoNCE whose memory grows with the batch, not with its square.

The scores of a batch against its candidates, [B, M], are computed a tile at a time, in the forward pass for each row's
sum of exponentials and once more in the backward pass for the gradients: the idea of Inf-CL (arXiv 2410.17243). At a
batch of 65,536 they would be 17 GB, several times over; here they are one tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..false_negatives.guide import Guided
from .similarity import compare, fitting, scores_of_pairs

TILE = (1024, 4096)  # rows and candidates


class Pairs(NamedTuple):
    """Pairs of a row, or what stands for rows, and a candidate: [P] int64 each."""

    rows: Tensor
    columns: Tensor


class Ignored(NamedTuple):
    """Candidates that are neither right nor wrong, by who asks, so that a list shared by many rows lies here once.

    `askers` [B] int64: the number of each row's asker. `pairs`: an asker and a candidate, in order of askers. `twins`
    [T] int64: candidates that nobody is compared with, since another one shows the same.
    """

    askers: Tensor
    pairs: Pairs
    twins: Tensor | None = None


class LossOutput(NamedTuple):
    """The mean loss of a term, with gradient, and figures of its rows, without: scalars all.

    Args:
        loss: the mean over the rows.
        accuracy: the share of rows whose positive scores highest.
        positive: the mean cosine of the positives.
        hardest: the mean cosine of each row's most similar negative; NaN where no row has one.
        negatives: the mean number of negatives that a row was compared with.
        masked: the mean number left out for being more similar than the margin allows.
        guided: the mean number that a guide left out.
        left_out: the mean number left out for being right as well, apart from a row's own answer and itself.
    """

    loss: Tensor
    accuracy: Tensor
    positive: Tensor
    hardest: Tensor
    negatives: Tensor
    masked: Tensor
    guided: Tensor
    left_out: Tensor = torch.zeros(())


def info_nce(
    queries: Tensor,
    candidates: Tensor,
    positives: Tensor,
    temperature: float | Tensor,
    ignored: Ignored | None = None,
    brought: Pairs | None = None,
    mask_margin: float | None = None,
    hardness: float = 0.0,
    tile: tuple[int, int] = TILE,
    guided: Guided | None = None,
    spared: Pairs | None = None,
) -> LossOutput:
    """Return the InfoNCE (van den Oord et al. 2018, eq. 4) of queries against one shared set of candidates.

        L = mean over i of  -log( e_ip / (e_ip + sum over j of w_ij e_ij) ),  e_ij = exp(q_i . c_j / temperature)

    where p is the positive and j runs over the other candidates that are not left out, w_ij = exp(hardness q_i . c_j)
    without gradient. Computes in float32, or in the inputs' dtype where that is wider.

    Args:
        queries: [B, D] float, L2-normalised; or [B, T, D], several an input (similarity.py), whose MaxSim then stands
            where the product does.
        candidates: [M, D] float, L2-normalised, or [M, S, D].
        positives: [B] int64, the row of `candidates` that answers each query.
        temperature: divides the cosines; a scalar tensor gets its gradient.
        ignored: what is neither right nor wrong (a second right answer); a query's own positive may be among it and is
            not left out.
        brought: pairs that the margin does not concern: a row and the hard negatives that it brought itself.
        mask_margin: leave out candidates more similar than the positive by more than this.
        hardness: the exponent above.
        tile: how many rows and candidates are compared at a time; it changes rounding, nothing else.
        guided: leave out, too, what this finds nearer than its limit; never a query's own positive.
        spared: pairs that the guide does not concern: a row and what is wrong for it by the role that it plays.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    scale = 1 / torch.as_tensor(temperature, dtype=dtype, device=queries.device)
    masks = _Masks(positives, ignored, brought, mask_margin, guided, spared)
    tile = fitting(tile, queries, candidates)
    return LossOutput(*_InfoNCE.apply(queries.to(dtype), candidates.to(dtype), scale, masks, hardness, tile))


class _TileMasks(NamedTuple):
    """Of a tile which candidates are positives, which are left out ([R, C] bool each), and how many of those are left
    out for the margin, and by the guide, [R] int64."""

    right: Tensor
    out: Tensor
    similar: Tensor
    guided: Tensor


class _Masks:
    """The candidates of a tile that count, and those that are left out."""

    def __init__(
        self, positives: Tensor, ignored: Ignored | None, brought: Pairs | None, margin: float | None,
        guided: Guided | None, spared: Pairs | None,
    ):  # fmt: skip
        self.positives, self.ignored, self.brought, self.margin = positives, ignored, _by_row(brought), margin
        self.guided, self.spared = guided, _by_row(spared)

    def tile(self, scores: Tensor, positive: Tensor, rows: slice, columns: slice) -> _TileMasks:
        """Return what of a tile's cosines [R, C] counts; `positive` [B] holds the cosines of all positives."""
        every = torch.arange(len(scores), device=scores.device)
        right = _marked(Pairs(every, self.positives[rows]), columns, len(scores))
        out = torch.zeros_like(right) if self.ignored is None else _marked_ignored(self.ignored, rows, columns)
        out &= ~right  # a row's own positive may be right for others too, and stays in
        guided = similar = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
        if self.guided is not None:
            guided = _leave_out(out, self.guided.nearer(rows, columns) & ~right, self.spared, rows, columns)
        if self.margin is not None:
            close = (scores > positive[rows, None] + self.margin) & ~right
            similar = _leave_out(out, close, self.brought, rows, columns)
        return _TileMasks(right, out, similar, guided)


def _leave_out(out: Tensor, more: Tensor, kept: Pairs | None, rows: slice, columns: slice) -> Tensor:
    """Leave `more` [R, C] of a tile out as well, but for pairs that are kept; return how many are new, [R] int64."""
    if kept is not None:
        more &= ~_marked(_within(kept, rows), columns, len(more))
    new = (more & ~out).sum(1)
    out |= more
    return new


class _InfoNCE(torch.autograd.Function):
    """The loss and its figures; the backward pass computes each tile's scores again instead of keeping them."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, candidates: Tensor, scale: Tensor, masks: _Masks, hardness: float,
        tile: tuple[int, int],
    ) -> tuple[Tensor, ...]:  # fmt: skip
        # autocast would compute the cosines in 16 bits, whose steps near 1 are larger than the differences that count
        with torch.autocast(queries.device.type, enabled=False):
            positive = scores_of_pairs(queries, candidates[masks.positives])
            total = torch.full_like(positive, float("-inf"))
            hardest = torch.full_like(positive, float("-inf"))
            count, similar, guided = (torch.zeros_like(masks.positives) for _ in range(3))
            right_logit = torch.zeros_like(positive)
            for rows, columns in _tiles(len(queries), len(candidates), tile):
                scores = compare(queries[rows], candidates[columns]).scores
                right, out, close, near = masks.tile(scores, positive, rows, columns)
                logits = _logits(scores, right, out, scale, hardness)
                total[rows] = torch.logaddexp(total[rows], logits.logsumexp(1))
                # from the tile, as in the sum: `positive` is rounded otherwise, and a small loss could fall below 0
                right_logit[rows] += logits.masked_fill(~right, 0).sum(1)
                wrong = scores.masked_fill(right | out, float("-inf"))
                hardest[rows] = torch.maximum(hardest[rows], wrong.amax(1))
                count[rows] += (~(right | out)).sum(1)
                similar[rows] += close
                guided[rows] += near
        ctx.save_for_backward(queries, candidates, scale, positive, total)
        ctx.masks, ctx.hardness, ctx.tile = masks, hardness, tile
        compared = hardest[count > 0]
        figures = (
            (positive > hardest).to(positive.dtype).mean(), positive.mean(), compared.mean(),
            count.to(positive.dtype).mean(), similar.to(positive.dtype).mean(),
            guided.to(positive.dtype).mean(),
        )  # fmt: skip
        ctx.mark_non_differentiable(*figures)
        return ((total - right_logit).mean(), *figures)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        queries, candidates, scale, positive, total = ctx.saved_tensors
        want_queries, want_candidates, want_scale = ctx.needs_input_grad[:3]
        # one that nobody wants, a bank's say, is not even allocated
        to_queries = torch.zeros_like(queries) if want_queries else None
        to_candidates = torch.zeros_like(candidates) if want_candidates else None
        to_scale = torch.zeros_like(scale) if want_scale else None
        share = grad / len(queries)
        for rows, columns in _tiles(len(queries), len(candidates), ctx.tile):
            pairs = compare(queries[rows], candidates[columns])
            scores = pairs.scores
            right, out, *_ = ctx.masks.tile(scores, positive, rows, columns)
            logits = _logits(scores, right, out, scale, ctx.hardness)
            # d loss / d logit: the softmax, less one where the answer is right
            steps = (logits.sub_(total[rows, None]).exp_() - right.to(scores.dtype)) * share
            if to_scale is not None:
                to_scale += (steps * scores).sum()
            steps *= scale
            if to_queries is not None:
                to_queries[rows] += pairs.to_queries(steps)
            if to_candidates is not None:
                to_candidates[columns] += pairs.to_candidates(steps)
        return to_queries, to_candidates, to_scale, None, None, None


def _logits(scores: Tensor, right: Tensor, out: Tensor, scale: Tensor, hardness: float) -> Tensor:
    """Return [R, C]: the log of what each candidate adds to the softmax's sum; -inf where it is left out."""
    logits = scores * scale
    if hardness:
        logits = logits + (hardness * scores).masked_fill_(right, 0)
    return logits.masked_fill_(out, float("-inf"))


def _tiles(rows: int, columns: int, tile: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    for row in range(0, rows, tile[0]):
        for column in range(0, columns, tile[1]):
            yield slice(row, min(row + tile[0], rows)), slice(column, min(column + tile[1], columns))


def _by_row(pairs: Pairs | None) -> Pairs | None:
    if pairs is None:
        return None
    order = torch.argsort(pairs.rows, stable=True)
    return Pairs(pairs.rows[order], pairs.columns[order])


def _within(pairs: Pairs, rows: slice) -> Pairs:
    """Return of pairs, sorted by row, those of some rows, which are then numbered from 0."""
    start, end = torch.searchsorted(pairs.rows, torch.tensor([rows.start, rows.stop], device=pairs.rows.device))
    return Pairs(pairs.rows[start:end] - rows.start, pairs.columns[start:end])


def _marked_ignored(ignored: Ignored, rows: slice, columns: slice) -> Tensor:
    """Return [R, C] bool, true where a row's asker has a pair with the candidate."""
    askers, which = torch.unique(ignored.askers[rows], return_inverse=True)
    owners, places = equal_pairs(askers, ignored.pairs.rows)
    marks = _marked(Pairs(owners, ignored.pairs.columns[places]), columns, len(askers))[which]
    if ignored.twins is not None:
        inside = ignored.twins[(ignored.twins >= columns.start) & (ignored.twins < columns.stop)]
        marks[:, inside - columns.start] = True
    return marks


def _marked(pairs: Pairs, columns: slice, rows: int) -> Tensor:
    """Return [R, C] bool, true at the pairs that lie in a tile."""
    marks = torch.zeros(rows, columns.stop - columns.start, dtype=torch.bool, device=pairs.rows.device)
    inside = (pairs.columns >= columns.start) & (pairs.columns < columns.stop)
    marks[pairs.rows[inside], pairs.columns[inside] - columns.start] = True
    return marks


def equal_pairs(values: Tensor, increasing: Tensor) -> tuple[Tensor, Tensor]:
    """Return all (i, j) with values[i] == increasing[j], in order of i, as two [P] int64, without comparing all."""
    start = torch.searchsorted(increasing, values)
    count = torch.searchsorted(increasing, values, right=True) - start
    owners = torch.repeat_interleave(torch.arange(len(values), device=values.device), count)
    within = torch.arange(len(owners), device=values.device) - torch.repeat_interleave(count.cumsum(0) - count, count)
    return owners, start[owners] + within
