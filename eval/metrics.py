"""Retrieval metrics: pure functions of ranks.

`ranks` holds one array of ranks from 1 for every query, one rank for each of its targets, as
`mllm_embed.ranking.ranks_of_targets` gives them. Percentages are left to the printer: values lie in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mllm_embed.errors import DataError

Ranks = Sequence[np.ndarray]


def hits_at_k(ranks: Ranks, k: int) -> int:
    """How many queries have at least one target among the first k answers."""
    return sum(int(best <= k) for best in _best(ranks))


def recall_at_k(ranks: Ranks, k: int) -> float:
    """The share of queries with at least one target among the first k answers."""
    return hits_at_k(ranks, k) / len(ranks)


def average_precision_at_k(ranks: np.ndarray, k: int | None = None) -> float:
    """Average precision of one query: ranks [T] of its targets in any order.

    The sum of the precisions at the targets among the first k, divided by min(T, k), as in CIRCO's official
    code; without k over the whole ranking, divided by T.
    """
    found = np.sort(_checked(ranks))
    precision = np.arange(1, len(found) + 1) / found
    if k is None:
        return float(precision.mean())
    return float(precision[found <= k].sum() / min(len(found), k))


def mean_average_precision(ranks: Ranks, k: int | None = None) -> float:
    """The mean over the queries of `average_precision_at_k`."""
    _best(ranks)
    return sum(average_precision_at_k(row, k) for row in ranks) / len(ranks)


def mrr(ranks: Ranks) -> float:
    """Mean reciprocal rank of the best placed target."""
    return sum(1 / best for best in _best(ranks)) / len(ranks)


def _best(ranks: Ranks) -> list[int]:
    if not len(ranks):
        raise DataError("there are no queries to measure")
    return [int(_checked(row).min()) for row in ranks]


def _checked(row: np.ndarray) -> np.ndarray:
    row = np.asarray(row)
    if not row.size:
        raise DataError("a query without targets has no rank to measure")
    if row.min() < 1:
        raise DataError(f"ranks start at 1, not at {row.min()}")
    return row
