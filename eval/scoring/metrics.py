"""Retrieval metrics as pure functions: the ranks of every query's targets in, one value in [0, 1] a query out.

`ranks` holds one array of ranks from 1 for every query, one rank a target, as `mllm_embed.ranking` gives them. A query
without targets scores 0. Means, percentages and intervals are made of the values in `eval.figures`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllm_embed.errors import DataError

Ranks = Sequence[np.ndarray]


@dataclass(frozen=True)
class Metric:
    """A named metric.

    Attributes:
        values: ranks -> [Q] float64.
        depth: how many answers it looks at; 0 for the whole ranking.
        counts: every value is 0 or 1, so that their sum is a number of hits.
        mean: over values [Q], in the arithmetic of the official scorer, to agree in every digit.
        data: what else the values depend on, for a fingerprint.
    """

    name: str
    values: Callable[[Ranks], np.ndarray]
    depth: int = 0
    counts: bool = False
    mean: Callable[[np.ndarray], float] = lambda values: float(np.mean(values))
    data: Any = None


def single_mean(values: np.ndarray) -> float:
    """The mean of 0s and 1s as torch gives it: hits by queries in float32."""
    return float(np.float32(values.sum()) / np.float32(len(values)))


def running_mean(values: np.ndarray) -> float:
    """The mean of values added one after another, as a loop in Python does."""
    return sum(values.tolist()) / len(values)


def recall(ks: Sequence[int], name: str = "R", single: bool = False) -> tuple[Metric, ...]:
    """Recall@K metrics: 1 where a query has at least one target among its first K answers.

    `single`: the official scorer takes the mean in float32, as torch does.
    """
    more = {"counts": True, **({"mean": single_mean} if single else {})}
    return tuple(Metric(f"{name}@{k}", lambda ranks, k=k: recall_at_k(ranks, k), k, **more) for k in ks)


def mean_average_precision(ks: Sequence[int]) -> tuple[Metric, ...]:
    """mAP@K metrics, as `average_precision_at_k`."""
    return tuple(Metric(f"mAP@{k}", lambda ranks, k=k: average_precision_at_k(ranks, k), k) for k in ks)


def soft_recall(ks: Sequence[int], gains: Sequence[Sequence[float]], name: str) -> tuple[Metric, ...]:
    """CIRR's soft score at K: the largest of 0 and the gains of the targets among the first K (CIRPLANT's code).

    Args:
        ks: the cut-offs.
        gains: for each query the value of each of its targets, in their order.
        name: the metrics are called `name@K`.
    """
    more = {"mean": running_mean, "data": gains}
    return tuple(Metric(f"{name}@{k}", lambda ranks, k=k: soft_recall_at_k(ranks, gains, k), k, **more) for k in ks)


MAP = Metric("mAP", lambda ranks: average_precision(ranks))
MRR = Metric("MRR", lambda ranks: reciprocal_rank(ranks))


def recall_at_k(ranks: Ranks, k: int) -> np.ndarray:
    """[Q]: 1 where any target is among the first k answers."""
    return (_best(ranks) <= k).astype(np.float64)


def reciprocal_rank(ranks: Ranks) -> np.ndarray:
    """[Q]: 1 / rank of the best placed target."""
    return 1 / _best(ranks)


def average_precision(ranks: Ranks) -> np.ndarray:
    """[Q]: average precision over the whole ranking, the mean of the precisions at the targets."""
    return np.array([np.mean(_precisions(row)[1]) if row.size else 0.0 for row in _checked(ranks)])


def average_precision_at_k(ranks: Ranks, k: int) -> np.ndarray:
    """[Q]: the sum of the precisions at the targets among the first k, divided by min(targets, k).

    As in CIRCO's `src/evaluation.py`; summed over all k places as there, so that the last digit agrees as well.
    """
    ranks = _checked(ranks)
    places = np.zeros((len(ranks), k))
    for number, row in enumerate(ranks):
        found, precision = _precisions(row)
        places[number, found[found <= k] - 1] = precision[found <= k]
    return places.sum(axis=1) / np.maximum(1, np.minimum([row.size for row in ranks], k))


def soft_recall_at_k(ranks: Ranks, gains: Sequence[Sequence[float]], k: int) -> np.ndarray:
    """[Q]: the largest gain among the targets in the first k answers, at least 0."""
    pairs = zip(_checked(ranks), gains, strict=True)
    return np.array([max([0.0, *np.asarray(gain, dtype=float)[row <= k].tolist()]) for row, gain in pairs])


def _precisions(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ranks in order and the precision at each."""
    found = np.sort(row)
    return found, np.arange(1, len(found) + 1) / found


def _best(ranks: Ranks) -> np.ndarray:
    return np.array([row.min() if row.size else np.inf for row in _checked(ranks)])


def _checked(ranks: Ranks) -> list[np.ndarray]:
    rows = [np.asarray(row, dtype=np.int64) for row in ranks]
    low = min((int(row.min()) for row in rows if row.size), default=1)
    if low < 1:
        raise DataError(f"ranks start at 1, not at {low}")
    return rows
