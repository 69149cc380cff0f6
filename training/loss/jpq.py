"""JPQ: a ranking loss on the scores of product codes, whose negatives those codes themselves find at each step.

From JPQ (arXiv 2108.00644; jpq/run_train.py of jingtaozhan/JPQ) is all but four things. The paper's scores are inner
products of vectors of any length; ours are of queries of length 1, and so divided by a temperature. The paper takes
every known answer of a query as a positive; here it is a row's own answer, and others known to be right are left out.
Their recipes let a rank behind the first 10 or 200 (`lambda_cut`) count nothing; here every rank counts 1 / rank.
And the first K are found in torch, by all codes, exactly: B N D multiplications a step and 5 B N bytes, which galleries
of training allow.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .tiled import Ignored, LossOutput

_VALUES = 1 << 24  # numbers of rows that are decoded at a time: 64 MB


class Codes(NamedTuple):
    """The codes of all candidates, which no training changes.

    Args:
        codes: [N, S] int64, the number of the centroid for each of S pieces.
        rotation: R [D, D] float32, of which S pieces are coded: a query q is compared as R q.
    """

    codes: Tensor
    rotation: Tensor


def scores_of(queries: Tensor, codes: Tensor, centroids: Tensor) -> Tensor:
    """Return the scores [B, K] of each query's own candidates: a table of what each centroid gives it, then sums.

    Args:
        queries: [B, D] float, rotated.
        codes: [B, K, S] int64.
        centroids: [S, 256, D / S] float.
    """
    pieces = queries.unflatten(1, (centroids.shape[0], -1))
    table = torch.einsum("bsd,skd->bsk", pieces, centroids)
    return table.gather(2, codes.transpose(1, 2)).sum(1)


@torch.no_grad()
def nearest(
    queries: Tensor, codes: Tensor, centroids: Tensor, ignored: Ignored, own: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return the candidates [B, K] int64 that score highest, best first and equal ones in their order, and which places
    hold any, [B, K] bool: behind the last that a query does not leave out there is none.

    Args:
        queries: [B, D] float, rotated.
        codes: [N, S] int64.
        centroids: [S, 256, D / S] float.
        ignored: candidates that each query leaves out.
        own: [B] int64, which it does not leave out in any case: its answer.
        count: K at most; N where that is less.
    """
    scores = queries.new_empty(len(queries), len(codes))
    step, pieces = max(1, _VALUES // queries.shape[1]), torch.arange(codes.shape[1], device=codes.device)
    for at in range(0, len(codes), step):
        scores[:, at : at + step] = queries @ centroids[pieces, codes[at : at + step]].flatten(1).T
    left_out = torch.zeros(len(queries), len(codes), dtype=torch.bool, device=codes.device)
    left_out[ignored.pairs.rows, ignored.pairs.columns] = True  # by askers, of whom there are no more than queries
    left_out = left_out[ignored.askers]
    left_out[torch.arange(len(own), device=own.device), own] = False
    scores.masked_fill_(left_out, -torch.inf)
    best = scores.topk(min(count, len(codes)), dim=1, sorted=False).indices.sort(dim=1).values
    order = scores.gather(1, best).argsort(dim=1, descending=True, stable=True)
    best = best.gather(1, order)
    return best, scores.gather(1, best) > -torch.inf


def jpq(
    queries: Tensor,
    candidates: Codes,
    centroids: Tensor,
    positive: Tensor,
    ignored: Ignored,
    temperature: float | Tensor,
    count: int,
) -> LossOutput:
    """Return LambdaRank's pairwise loss over the first K candidates by their codes, and the positive.

        L = mean over i, and over j of the first K but p,  of  log(1 + exp((s_ij - s_ip) / t)) |1 / r_ij - 1 / r_ip|

    p is the positive, s a score (R q_i) . c_j by the code c_j as the centroids now tell it, and r its rank among the
    first K; the positive has rank K + 1 where it is not among them. There is a gradient to the queries and to the
    centroids, and none to codes, ranks or rotation.

    Args:
        queries: q [B, D] float.
        candidates: all of them.
        centroids: [S, 256, D / S] float32, what codes stand for.
        positive: p [B] int64.
        ignored: what else is right for each query, and itself: no candidates of it.
        temperature: t.
        count: K.
    """
    # autocast would round what an index does not
    with torch.autocast(queries.device.type, enabled=False):
        turned = queries.float() @ candidates.rotation.T
        best, there = nearest(turned.detach(), candidates.codes, centroids, ignored, positive, count)
        found = torch.cat([positive[:, None], best], dim=1)
        right, scores = scores_of(turned, candidates.codes[found], centroids).tensor_split([1], dim=1)
    own = best == positive[:, None]
    ranks = torch.arange(1, best.shape[1] + 1, device=best.device, dtype=scores.dtype)
    rank = torch.where(own.any(1), (own * ranks).sum(1), ranks[-1] + 1)
    wrong = there & ~own
    weights = (1 / ranks - 1 / rank[:, None]).abs() * wrong
    pairs = F.softplus((scores - right) / temperature) * weights
    loss = (pairs.sum(1) / wrong.sum(1).clamp(min=1)).mean()
    hardest = scores.detach().masked_fill(~wrong, -torch.inf).amax(1)
    none = scores.new_tensor(0.0)
    return LossOutput(
        loss, (rank == 1).float().mean(), right.detach().mean(), hardest[hardest > -torch.inf].mean(),
        wrong.sum(1).float().mean(), none, none,
    )  # fmt: skip
