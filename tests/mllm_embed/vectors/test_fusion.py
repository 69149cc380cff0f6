"""Mixed vectors against their formulas, row by row; neutral settings change no bit."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_embed.errors import ConfigError
from mllm_embed.vectors.fusion import edited, slerp, weighted
from mllm_embed.vectors.unit import unit

RNG = np.random.default_rng(0)
Q, V, T = (unit(RNG.standard_normal((7, 16))) for _ in range(3))


def test_an_edit_is_a_direction_walked_less_far_or_farther() -> None:
    for strength in (-0.5, 0.0, 0.6, 1.4):
        for row, (q, v) in zip(edited(Q, V, strength), zip(Q, V, strict=True), strict=True):
            moved = v.astype(float) + strength * (q.astype(float) - v.astype(float))
            assert row == pytest.approx(moved / np.linalg.norm(moved), abs=1e-6)
    assert np.array_equal(edited(Q, V, 1.0), Q) and np.array_equal(edited(Q, V, 0.0), V)


def test_only_proportions_of_weights_matter_however_large_they_are() -> None:
    direction = unit(Q.astype(np.float64) - V)
    assert edited(Q, V, 1e300) == pytest.approx(direction, abs=1e-6)  # not zeros, to which every row is as near
    assert weighted((1e-300, Q), (-1e-300, V)) == pytest.approx(direction, abs=1e-6)


def test_weights_that_leave_one_part_leave_it_as_it_is() -> None:
    assert np.array_equal(weighted((0.3, Q), (0, V)), Q)
    for row, (q, v, t) in zip(weighted((1, Q), (0.5, V), (-0.2, T)), zip(Q, V, T, strict=True), strict=True):
        assert row == pytest.approx((q + 0.5 * v - 0.2 * t) / np.linalg.norm(q + 0.5 * v - 0.2 * t), abs=1e-6)
    for weights, wrong in (((0, 0), "all weights are 0"), ((float("nan"), 1), "must be a finite number")):
        with pytest.raises(ConfigError, match=wrong):
            weighted(*zip(weights, (Q, V), strict=True))


def test_the_arc_has_equal_angles_and_both_ends() -> None:
    assert np.array_equal(slerp(Q, V, 0), Q) and np.array_equal(slerp(Q, V, 1), V)
    whole = np.arccos((Q * V).sum(1))
    quarter = slerp(Q, V, 0.25)
    assert np.arccos((Q * quarter).sum(1)) == pytest.approx(whole / 4, abs=1e-4)
    assert np.arccos((quarter * V).sum(1)) == pytest.approx(3 * whole / 4, abs=1e-4)
    assert slerp(Q, Q, 0.5) == pytest.approx(Q, abs=1e-6)
