"""Metrics on ranks: values worked out by hand, and a slow twin on relevance lists."""

from __future__ import annotations

import numpy as np
import pytest

from eval.scoring.metrics import (
    MAP,
    MRR,
    average_precision,
    average_precision_at_k,
    mean_average_precision,
    recall,
    recall_at_k,
    reciprocal_rank,
    soft_recall,
    soft_recall_at_k,
)
from mllm_embed.errors import DataError

RANKS = [np.array([1]), np.array([6, 3]), np.array([2, 1, 40]), np.array([11])]


def test_values_worked_out_by_hand() -> None:
    assert [recall_at_k(RANKS, k).tolist() for k in (1, 3, 11)] == [[1, 0, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert reciprocal_rank(RANKS).tolist() == [1, 1 / 3, 1, 1 / 11]
    precisions = [1, (1 / 3 + 2 / 6) / 2, (1 + 1 + 3 / 40) / 3, 1 / 11]
    assert average_precision(RANKS).tolist() == pytest.approx(precisions)
    assert average_precision_at_k(RANKS, 5).tolist() == pytest.approx([1, 1 / 3 / 2, 2 / 3, 0])


def test_the_divisor_at_k_is_the_smaller_of_targets_and_k() -> None:
    ranks = [np.array([1, 2, 3]), np.array([3, 9]), np.array([7])]
    assert average_precision_at_k(ranks, 2).tolist() == [1, 0, 0]
    assert average_precision_at_k(ranks, 5).tolist() == pytest.approx([1, 1 / 3 / 2, 0])


def test_the_soft_score_is_the_best_gain_among_the_first_k_and_never_below_zero() -> None:
    ranks = [np.array([1, 3]), np.array([2, 1, 5]), np.array([4]), np.array([], dtype=int)]
    gains = [[0.5, 1.0], [1.0, -1.0, 0.2], [-1.0], []]
    assert soft_recall_at_k(ranks, gains, 1).tolist() == [0.5, 0, 0, 0]
    assert soft_recall_at_k(ranks, gains, 2).tolist() == [0.5, 1, 0, 0]
    assert soft_recall_at_k(ranks, gains, 5).tolist() == [1, 1, 0, 0]


def slow_average_precision(relevant: list[bool], targets: int, k: int) -> float:
    """CIRCO's evaluation code in plain words: precision at each hit among the first k."""
    total, found = 0.0, 0
    for place, hit in enumerate(relevant[:k], start=1):
        if hit:
            found += 1
            total += found / place
    return total / min(targets, k)


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_equals_a_loop_over_the_answers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranks = [rng.permutation(np.arange(1, 41))[: rng.integers(1, 15)] for _ in range(10)]
    relevant = [[place in row for place in range(1, 41)] for row in ranks]
    for k in (1, 5, 10, 40):
        slow = [slow_average_precision(hits, len(row), k) for hits, row in zip(relevant, ranks, strict=True)]
        assert average_precision_at_k(ranks, k).tolist() == pytest.approx(slow, abs=1e-12)
    whole = [slow_average_precision(hits, len(row), 40) for hits, row in zip(relevant, ranks, strict=True)]
    assert average_precision(ranks).tolist() == pytest.approx(whole, abs=1e-12)


def test_named_metrics_know_their_depth_and_whether_they_count() -> None:
    metrics = [*recall((1, 3), "Rsub", single=True), *mean_average_precision((5,)), MAP, MRR]
    assert [metric.name for metric in metrics] == ["Rsub@1", "Rsub@3", "mAP@5", "mAP", "MRR"]
    assert [metric.depth for metric in metrics] == [1, 3, 5, 0, 0]
    assert [metric.counts for metric in metrics] == [True, True, *[False] * 3]
    assert metrics[1].values(RANKS).tolist() == [1, 1, 1, 0]
    assert metrics[2].values(RANKS).tolist() == average_precision_at_k(RANKS, 5).tolist()
    (soft,) = soft_recall((3,), [[0.5], [1.0, 0.2], [1, 1, 1], [1]], "soft R")
    assert (soft.name, soft.counts, soft.values(RANKS).tolist()) == ("soft R@3", False, [0.5, 0.2, 1, 0])


@pytest.mark.parametrize("metric", [*recall((1,)), *mean_average_precision((5,)), MAP, MRR], ids=lambda m: m.name)
def test_one_float_a_query_nothing_found_without_targets_and_ranks_from_1(metric) -> None:
    values = metric.values([np.array([1]), np.array([], dtype=int)])
    assert values.dtype == np.float64 and values.tolist() == [1, 0]
    with pytest.raises(DataError, match="ranks start at 1, not at 0"):
        metric.values([np.array([0, 3])])
