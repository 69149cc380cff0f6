"""Retrieval metrics as pure functions: the ranks of every query's targets in, one value in [0, 1] a query out.

`ranks` holds one int array of ranks from 1 for every query, one rank a target, as `mllm_embed.vectors.ranking` gives
them. A query without targets scores 0. Means, percentages and intervals are made of the values in `estimate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from mllm_embed.errors import DataError

Ranks = Sequence[np.ndarray]


def plain_mean(values: np.ndarray) -> float:
    """Return the mean of values [Q] as numpy gives it."""
    return float(np.mean(values))


def single_mean(values: np.ndarray) -> float:
    """Return the mean of 0s and 1s [Q] as torch gives it: hits by queries in float32."""
    return float(np.float32(values.sum()) / np.float32(len(values)))


def running_mean(values: np.ndarray) -> float:
    """Return the mean of values [Q] added one after another, as a loop in Python does."""
    return sum(values.tolist()) / len(values)


@dataclass(frozen=True)
class Metric:
    """A named metric.

    Attributes:
        values: ranks -> [Q] float64 in [0, 1].
        depth: how many answers it looks at; 0 for the whole ranking.
        counts: every value is 0 or 1, so that their sum is a number of hits.
        mean: over values [Q], in the arithmetic of the official scorer, to agree in every digit.
        data: what else the values depend on, for a fingerprint.
        whole: it says something of all queries of a task together, and nothing of some of them.
        by_query: keywords of the partial `values` that hold an entry for each query.
        lower: a smaller value is better.
    """

    name: str
    values: Callable[[Ranks], np.ndarray]
    depth: int = 0
    counts: bool = False
    mean: Callable[[np.ndarray], float] = plain_mean
    data: Any = None
    whole: bool = False
    by_query: tuple[str, ...] = ()
    lower: bool = False

    def of(self, members: Sequence[int]) -> Metric:
        """Return the metric of some of the queries, by their positions. Raise DataError where it has none."""
        if self.data is None:
            return self
        bound = self.values.keywords if isinstance(self.values, partial) else {}
        if self.whole or not self.by_query or not bound.keys() >= set(self.by_query):
            raise DataError(f"{self.name} is of all queries of its task, and cannot be read of some")
        some = {}
        for name in self.by_query:
            some[name] = [bound[name][at] for at in members]
        return replace(self, values=partial(self.values, **some), data=[self.data, some])


def recall(ks: Sequence[int], name: str = "R", single: bool = False) -> tuple[Metric, ...]:
    """Return recall@K metrics: 1 where a query has at least one target among its first K answers.

    `single`: the official scorer takes the mean in float32, as torch does (CLIP4Cir's and SEARLE's src/validate.py).
    """
    mean = single_mean if single else plain_mean
    return tuple(Metric(f"{name}@{k}", partial(recall_at_k, k=k), k, counts=True, mean=mean) for k in ks)


def mean_average_precision(ks: Sequence[int]) -> tuple[Metric, ...]:
    """Return mAP@K metrics, as `average_precision_at_k`."""
    return tuple(Metric(f"mAP@{k}", partial(average_precision_at_k, k=k), k) for k in ks)


def ndcg(ks: Sequence[int]) -> tuple[Metric, ...]:
    """Return nDCG@K metrics, as `ndcg_at_k`; the mean is added up query by query, as MTEB does."""
    return tuple(Metric(f"nDCG@{k}", partial(ndcg_at_k, k=k), k, mean=running_mean) for k in ks)


def precision(ks: Sequence[int]) -> tuple[Metric, ...]:
    """Return precision@K metrics, as `precision_at_k`."""
    return tuple(Metric(f"P@{k}", partial(precision_at_k, k=k), k) for k in ks)


def found_share(ks: Sequence[int], sizes: Sequence[int], name: str = "found") -> tuple[Metric, ...]:
    """Return metrics of how many targets are found, as `found_share_at_k`; `sizes`: the targets of each query."""
    return _sized(f"{name}@", found_share_at_k, ks, sizes)


def negative_recall(ks: Sequence[int], sizes: Sequence[int]) -> tuple[Metric, ...]:
    """Return NegRecall@K metrics over ranks of negatives, as `negative_recall_at_k`; low is good."""
    return tuple(replace(one, lower=True) for one in _sized("NegRecall@", negative_recall_at_k, ks, sizes))


def listed_precision(ks: Sequence[int], sizes: Sequence[int]) -> tuple[Metric, ...]:
    """Return mAP@K metrics, as `listed_precision_at_k`."""
    return _sized("mAP@", listed_precision_at_k, ks, sizes)


def _sized(name: str, values: Callable[..., np.ndarray], ks: Sequence[int], sizes: Sequence[int]) -> tuple[Metric, ...]:
    """Return metrics at K that also look at the number of targets of each query."""
    return tuple(
        Metric(f"{name}{k}", partial(values, sizes=sizes, k=k), k, data=sizes, by_query=("sizes",)) for k in ks
    )


def cleaned_precision(
    ks: Sequence[int], sizes: Sequence[int], right: Sequence[int], wrong: Sequence[Sequence[int]], depth: int
) -> tuple[Metric, ...]:
    """Return mAP@K metrics of rankings that negatives were taken out of, as `cleaned_precision_at_k`."""
    data = [sizes, right, wrong, depth]
    values = partial(cleaned_precision_at_k, sizes=sizes, right=right, wrong=wrong, depth=depth)
    own = ("sizes", "right", "wrong")
    return tuple(Metric(f"mAP@{k} without negatives", partial(values, k=k), depth, data=data, by_query=own) for k in ks)


def spread_of_precision(k: int, sets: Sequence[int]) -> Metric:
    """Return the metric of how far precision@k moves within sets of queries, as `precision_spread_at_k`."""
    values = partial(precision_spread_at_k, k=k, sets=sets)
    return Metric(f"P@{k} spread", values, k, data=sets, whole=True, lower=True)


def soft_recall(ks: Sequence[int], gains: Sequence[Sequence[float]], name: str) -> tuple[Metric, ...]:
    """Return CIRR's soft scores at K, as `soft_recall_at_k`.

    Args:
        ks: the cut-offs.
        gains: for each query the value of each of its targets, in their order.
        name: the metrics are called `name@K`.
    """
    return tuple(
        Metric(
            f"{name}@{k}",
            partial(soft_recall_at_k, gains=gains, k=k),
            k,
            mean=running_mean,
            data=gains,
            by_query=("gains",),
        )
        for k in ks
    )


def recall_at_k(ranks: Ranks, k: int) -> np.ndarray:
    """Return [Q] float64: 1 where any target is among the first k answers, else 0.

    Composed retrieval's R@K, which the text literature calls success or hit rate: two targets found count once.
    """
    return (_best(ranks) <= k).astype(np.float64)


def reciprocal_rank(ranks: Ranks) -> np.ndarray:
    """Return [Q] float64 in [0, 1]: 1 / rank of the best placed target (Voorhees, TREC-8, 1999)."""
    return 1 / _best(ranks)


def average_precision(ranks: Ranks) -> np.ndarray:
    """Return [Q] float64 in [0, 1]: the mean of the precisions at the targets, over the whole ranking.

    As trec_eval's `map` where all relevant documents are retrieved.
    """
    return np.array([np.mean(_precisions(row)[1]) if row.size else 0.0 for row in _checked(ranks)])


def average_precision_at_k(ranks: Ranks, k: int) -> np.ndarray:
    """Return [Q] float64 in [0, 1]: the precisions at the targets among the first k, summed, by min(targets, k).

    As in CIRCO's `src/evaluation.py` (Baldrati et al., ICCV 2023).
    """
    ranks = _checked(ranks)
    # One column a place, zeros included: numpy adds k values in another order than fewer, and the last digit must
    # agree with the server's.
    places = np.zeros((len(ranks), k))
    for number, row in enumerate(ranks):
        found, precision = _precisions(row)
        places[number, found[found <= k] - 1] = precision[found <= k]
    return places.sum(axis=1) / np.maximum(1, np.minimum([row.size for row in ranks], k))


def trapezoid_average_precision(ranks: Ranks) -> np.ndarray:
    """Return [Q] float64 in [0, 1): the area under precision and recall by trapezoids, over the whole ranking.

    Each target adds the mean of the precision before it and at it, by (targets + 1e-5): as i-CIR's `utils.py`
    `compute_ap` (Psomas et al., NeurIPS 2025), which is that of the retrieval of buildings (Philbin et al., CVPR 2007).
    A perfect ranking of n targets scores n / (n + 1e-5).
    """
    return np.array([_area(np.sort(row).tolist()) for row in _checked(ranks)])


def ndcg_at_k(ranks: Ranks, k: int) -> np.ndarray:
    """Return [Q] float64 in [0, 1]: nDCG at k where every target is worth 1 (Jarvelin and Kekalainen, 2002).

    A target at rank r <= k gains 1 / log2(r + 1); the sum is divided by that of the targets placed first. As
    trec_eval's `ndcg_cut`, which MTEB reports.
    """
    rows = _checked(ranks)
    best = [_discounted(np.arange(1, row.size + 1), k) or 1.0 for row in rows]
    return np.array([_discounted(row, k) / highest for row, highest in zip(rows, best, strict=True)])


def precision_at_k(ranks: Ranks, k: int) -> np.ndarray:
    """Return [Q] float64 in [0, 1]: how many of the first k answers are targets, by k."""
    return np.array([np.count_nonzero(row <= k) / k for row in _checked(ranks)])


def found_share_at_k(ranks: Ranks, sizes: Sequence[int], k: int) -> np.ndarray:
    """Return [Q] float64 in [0, 1]: how many targets are among the first k answers, by how many a query has (`sizes`).

    What the text literature, and PinPoint, call recall@k; `recall_at_k` counts one target found as all.
    """
    pairs = zip(_checked(ranks), sizes, strict=True)
    return np.array([np.count_nonzero(row <= k) / size if size else 0.0 for row, size in pairs])


def negative_recall_at_k(ranks: Ranks, sizes: Sequence[int], k: int) -> np.ndarray:
    """Return [Q] float64 in [0, 1]: how many negatives are among the first k answers, by min(negatives, k).

    Args:
        ranks: of each query's negatives.
        sizes: how many it has, those outside the gallery included.
        k: the cut-off.

    As PinPoint's `utils/metrics.py` `calculate_neg_recall_at_k` (Mahadev et al., CVPR 2026).
    """
    pairs = zip(_checked(ranks), sizes, strict=True)
    return np.array([np.count_nonzero(row <= k) / min(size, k) if size else 0.0 for row, size in pairs])


def listed_precision_at_k(ranks: Ranks, sizes: Sequence[int], k: int) -> np.ndarray:
    """Return [Q] float64 in [0, 1]: the precisions at the targets among the first k, summed, by min(size, k).

    As PinPoint's `utils/metrics.py` `calculate_metrics_at_k`: `average_precision_at_k`, added up from the first answer
    on, by how long the list of targets is (`sizes`), whose doubles count in it.
    """
    rows = zip(_checked(ranks), sizes, strict=True)
    return np.array([_listed(np.sort(row[row <= k]).tolist(), size, k) for row, size in rows])


def cleaned_precision_at_k(
    ranks: Ranks, sizes: Sequence[int], right: Sequence[int], wrong: Sequence[Sequence[int]], depth: int, k: int
) -> np.ndarray:
    """Return [Q] float64 in [0, 1]: `listed_precision_at_k` of the first `depth` answers without the negatives.

    Args:
        ranks: of each query's targets, and behind them of its negatives that are no targets.
        sizes: how long its list of targets is.
        right: how many of the ranks are of targets.
        wrong: which of the ranks are of negatives, by position; a target may be one.
        depth: how many answers a ranking has; what a negative leaves is filled from these alone.
        k: the cut-off.

    As PinPoint's `utils/data_utils.py` `filter_out_negatives`, whose rankings have 50 answers.
    """
    values = []
    for row, size, count, out in zip(_checked(ranks), sizes, right, wrong, strict=True):
        negatives = np.sort(row[list(out)])
        targets = np.sort(np.delete(row, list(out))[: count - sum(at < count for at in out)])
        targets = targets[targets <= depth]
        moved = targets - np.searchsorted(negatives, targets)
        values.append(_listed(moved[moved <= k].tolist(), size, k))
    return np.array(values)


def precision_spread_at_k(ranks: Ranks, sets: Sequence[int], k: int) -> np.ndarray:
    """Return [Q] float64 whose mean is that over sets of queries of their highest precision@k less their lowest.

    PinPoint's linguistic sensitivity (`evaluate.py`, ling_sens_range): a set is the queries of one picture, or of one
    pair of pictures, and sets of one query do not count. Each query has its set's spread, weighted so that every set
    counts alike, and may exceed 1.
    """
    values, own = precision_at_k(ranks, k), np.asarray(sets)
    sizes = np.bincount(own)
    low, high = np.ones(len(sizes)), np.zeros(len(sizes))
    np.minimum.at(low, own, values)
    np.maximum.at(high, own, values)
    several = np.count_nonzero(sizes > 1)
    weights = np.where(sizes > 1, len(values) / np.maximum(1, sizes * several), 0.0)
    return ((high - low) * weights)[own]


def soft_recall_at_k(ranks: Ranks, gains: Sequence[Sequence[float]], k: int) -> np.ndarray:
    """Return [Q] float64: the largest gain among the targets in the first k answers, at least 0.

    As in CIRPLANT's `OSCAR_CIRPLANT.py` (Liu et al., ICCV 2021); in [0, 1], as the gains of CIRR are at most 1.
    """
    values = []
    for row, gain in zip(_checked(ranks), gains, strict=True):
        reached = np.asarray(gain, dtype=float)[row <= k]
        values.append(float(reached.max(initial=0.0)))
    return np.array(values)


MAP = Metric("mAP", average_precision)
TRAPEZOID_MAP = Metric("mAP", trapezoid_average_precision)
MRR = Metric("MRR", reciprocal_rank)


def _precisions(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranks in order and the precision at each, both [T]."""
    found = np.sort(row)
    return found, np.arange(1, len(found) + 1) / found


def _area(found: Sequence[int]) -> float:
    """Return the area under a query's curve of precision and recall; `found` are its targets' ranks in order."""
    area, step = 0.0, 1.0 / (len(found) + 1e-5)
    for before, rank in enumerate(found):
        # precision among what stands before the target, and with it
        without = 1.0 if rank == 1 else before / (rank - 1)
        area += (without + (before + 1) / rank) * step / 2.0
    return area


def _listed(found: Sequence[int], size: int, k: int) -> float:
    """Return the precisions at ranks in order, added up from the first, by min(size, k)."""
    return sum(hits / rank for hits, rank in enumerate(found, start=1)) / min(size, k) if size else 0.0


def _discounted(row: np.ndarray, k: int) -> float:
    """Return the discounted gains of a query's targets among the first k, added best first."""
    return sum(1.0 / math.log2(rank + 1) for rank in np.sort(row).tolist() if rank <= k)


def _best(ranks: Ranks) -> np.ndarray:
    """Return the best rank of each query's targets [Q] float64; infinity, which no cut-off reaches, for no targets."""
    return np.array([row.min() if row.size else np.inf for row in _checked(ranks)])


def _checked(ranks: Ranks) -> list[np.ndarray]:
    rows = [np.asarray(row, dtype=np.int64) for row in ranks]
    low = min((int(row.min()) for row in rows if row.size), default=1)
    if low < 1:
        raise DataError(f"ranks start at 1, not at {low}")
    return rows
