"""The paired test and its interval, against all sign flips and the error of a mean written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from eval.scoring.paired import FLIPS, paired


@pytest.mark.parametrize("seed", range(4))
def test_p_equals_that_of_all_sign_flips(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.integers(-1, 2, (6, 2)) + 0.25, rng.random((5, 2)) - 0.2]
    found = paired(parts)
    for column in range(2):
        sums = []
        for signs in itertools.product((1, -1), repeat=11):
            halves = zip((signs[:6], signs[6:]), parts, strict=True)
            sums.append(sum(np.dot(sign, part[:, column]) / len(part) for sign, part in halves))
        exact = np.mean(np.abs(sums) >= abs(sums[0]) - 1e-12)
        assert found[column].points == pytest.approx(100 * sums[0])
        assert found[column].p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / FLIPS) + 2 / FLIPS)


def test_the_interval_is_that_of_a_mean_over_tasks_of_different_sizes() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(0.1, 1, (400, 1)), rng.normal(0.2, 2, (900, 1))]
    (found,) = paired(parts)
    error = 100 * np.sqrt(sum(part.var() / len(part) for part in parts))
    assert found.low == pytest.approx(found.points - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(found.points + 1.96 * error, abs=0.15 * error)


def test_tasks_of_equal_size_are_drawn_apart() -> None:
    """Drawn alike, opposite tasks would cancel out and the interval would shrink to nothing."""
    values = np.random.default_rng(0).normal(0, 1, (500, 1))
    (found,) = paired([values, -values])
    assert found.points == pytest.approx(0, abs=1e-9)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 100 * np.sqrt(2 * values.var() / 500), rel=0.15)


def test_p_is_one_without_a_difference_and_never_zero() -> None:
    same, sure = paired([np.stack([np.zeros(200), np.ones(200)], axis=1)])
    assert (same.points, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert (sure.points, sure.p) == (100, 1 / (FLIPS + 1))
    assert paired([np.ones((200, 1))]) == paired([np.ones((200, 1))])
