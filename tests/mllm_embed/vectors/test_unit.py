"""One rule for the length of vectors."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_embed.vectors.unit import unit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_get_length_one_and_zeros_stay_zeros(dtype: type) -> None:
    rows = np.random.default_rng(0).standard_normal((5, 12)).astype(dtype)
    rows[2] = 0
    found = unit(rows)
    assert found.dtype == np.float32 and not found[2].any()
    for row, made in zip(np.delete(rows, 2, 0), np.delete(found, 2, 0), strict=True):
        length = np.sqrt(sum(number * number for number in row.tolist()))
        assert made.tolist() == pytest.approx([number / length for number in row.tolist()], abs=1e-7)
