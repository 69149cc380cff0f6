"""Metrics on ranks: values worked out by hand, and a slow twin on relevance lists."""

import numpy as np
import pytest

from eval.metrics import average_precision_at_k, hits_at_k, mean_average_precision, mrr, recall_at_k
from mllm_embed.errors import DataError

RANKS = [np.array([1]), np.array([6, 3]), np.array([2, 1, 40]), np.array([11])]


def test_values_worked_out_by_hand() -> None:
    assert [hits_at_k(RANKS, k) for k in (1, 2, 3, 10, 11)] == [2, 2, 3, 3, 4]
    assert recall_at_k(RANKS, 3) == 0.75
    assert mrr(RANKS) == pytest.approx((1 + 1 / 3 + 1 + 1 / 11) / 4)
    precisions = [1, (1 / 3 + 2 / 6) / 2, (1 + 1 + 3 / 40) / 3, 1 / 11]
    assert [average_precision_at_k(row) for row in RANKS] == pytest.approx(precisions)
    assert mean_average_precision(RANKS) == pytest.approx(sum(precisions) / 4)


def test_the_divisor_at_k_is_the_smaller_of_targets_and_k() -> None:
    assert average_precision_at_k(np.array([1, 2, 3]), 2) == 1
    assert average_precision_at_k(np.array([3, 9]), 5) == pytest.approx(1 / 3 / 2)
    assert average_precision_at_k(np.array([7]), 5) == 0
    assert mean_average_precision([np.array([1]), np.array([7])], 5) == 0.5


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
    ranks = rng.permutation(np.arange(1, 41))[: rng.integers(1, 15)]
    relevant = [place in ranks for place in range(1, 41)]
    for k in (1, 5, 10, 40):
        slow = slow_average_precision(relevant, len(ranks), k)
        assert average_precision_at_k(ranks, k) == pytest.approx(slow, abs=1e-12)
    assert average_precision_at_k(ranks) == pytest.approx(slow_average_precision(relevant, len(ranks), 40))


def test_nothing_to_measure_is_refused() -> None:
    for metric in (mrr, mean_average_precision, lambda ranks: recall_at_k(ranks, 1)):
        with pytest.raises(DataError, match="no queries"):
            metric([])
        with pytest.raises(DataError, match="without targets"):
            metric([np.array([1]), np.array([], dtype=int)])
    with pytest.raises(DataError, match="ranks start at 1, not at 0"):
        mrr([np.array([0, 3])])
