"""Retrieval metrics as pure functions: the ranks of every query's targets in, one value in [0, 1] a query out.

`ranks` holds one int array of ranks from 1 for every query, one rank a target, as `mllm_embed.vectors.ranking` gives
them. A query without targets scores 0. Means, percentages and intervals are made of the values in `estimate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    """

    name: str
    values: Callable[[Ranks], np.ndarray]
    depth: int = 0
    counts: bool = False
    mean: Callable[[np.ndarray], float] = plain_mean
    data: Any = None


def recall(ks: Sequence[int], name: str = "R", single: bool = False) -> tuple[Metric, ...]:
    """Return recall@K metrics: 1 where a query has at least one target among its first K answers.

    `single`: the official scorer takes the mean in float32, as torch does (CLIP4Cir's and SEARLE's src/validate.py).
    """
    mean = single_mean if single else plain_mean
    return tuple(Metric(f"{name}@{k}", partial(recall_at_k, k=k), k, counts=True, mean=mean) for k in ks)


def mean_average_precision(ks: Sequence[int]) -> tuple[Metric, ...]:
    """Return mAP@K metrics, as `average_precision_at_k`."""
    return tuple(Metric(f"mAP@{k}", partial(average_precision_at_k, k=k), k) for k in ks)


def soft_recall(ks: Sequence[int], gains: Sequence[Sequence[float]], name: str) -> tuple[Metric, ...]:
    """Return CIRR's soft scores at K, as `soft_recall_at_k`.

    Args:
        ks: the cut-offs.
        gains: for each query the value of each of its targets, in their order.
        name: the metrics are called `name@K`.
    """
    return tuple(
        Metric(f"{name}@{k}", partial(soft_recall_at_k, gains=gains, k=k), k, mean=running_mean, data=gains) for k in ks
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
MRR = Metric("MRR", reciprocal_rank)


def _precisions(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranks in order and the precision at each, both [T]."""
    found = np.sort(row)
    return found, np.arange(1, len(found) + 1) / found


def _best(ranks: Ranks) -> np.ndarray:
    """Return the best rank of each query's targets [Q] float64; infinity, which no cut-off reaches, for no targets."""
    return np.array([row.min() if row.size else np.inf for row in _checked(ranks)])


def _checked(ranks: Ranks) -> list[np.ndarray]:
    rows = [np.asarray(row, dtype=np.int64) for row in ranks]
    low = min((int(row.min()) for row in rows if row.size), default=1)
    if low < 1:
        raise DataError(f"ranks start at 1, not at {low}")
    return rows
