"""Fixed dimensional encodings: what the formula says, and what the paper promises of their products."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.vectors.fde import FDE
from mllm_embed.vectors.maxsim import maxsim
from mllm_embed.vectors.multi import MultiVectors
from mllm_embed.vectors.unit import unit

SIZE = 12
Sets = list[np.ndarray]


def random_sets(seed: int, counts: list[int], size: int = SIZE) -> Sets:
    rng = np.random.default_rng(seed)
    return [unit(rng.standard_normal((count, size)).astype(np.float32)) for count in counts]


def flat(sets: Sets) -> MultiVectors:
    return MultiVectors.of(sets, SIZE if not sets else sets[0].shape[1])


def encoded(form: FDE, points: np.ndarray, document: bool) -> np.ndarray:
    """The formula, a vector and a partition at a time."""
    whole: list[float] = []
    for repetition in range(form.repetitions):
        rng = np.random.default_rng([form.seed, repetition])
        planes = rng.standard_normal((form.dimension, form.planes)).astype(np.float32)
        inner = np.eye(form.dimension)
        if form.projected:
            inner = rng.choice([-1, 1], (form.dimension, form.projected)) / form.projected**0.5
        there = defaultdict(list)
        sides = [tuple(bool(point @ plane > 0) for plane in planes.T) for point in points]
        for point, side in zip(points, sides, strict=True):
            there[side].append(point @ inner)
        for number in range(2**form.planes):
            side = tuple(bool(number >> bit & 1) for bit in range(form.planes))
            block = np.sum(there[side] or [np.zeros(inner.shape[1])], axis=0)
            if document and there[side]:
                block = block / len(there[side])
            elif document and len(points):
                wrong = [sum(a != b for a, b in zip(side, other, strict=True)) for other in sides]
                block = points[wrong.index(min(wrong))] @ inner
            whole += list(block)
    if form.final:
        sketch = np.zeros(form.final)
        size = len(whole) // form.repetitions
        for repetition in range(form.repetitions):
            rng = np.random.default_rng([form.seed, form.repetitions, repetition])
            target, signs = rng.integers(form.final, size=size), rng.choice([-1, 1], size)
            for at in range(size):
                sketch[target[at]] += signs[at] * whole[repetition * size + at]
        whole = list(sketch)
    return np.array(whole) / form.repetitions**0.5 / (1 if document else max(1, len(points)))


@pytest.mark.parametrize(
    "form",
    [
        FDE(SIZE, planes=3, repetitions=2),
        FDE(SIZE, planes=4, repetitions=3, projected=5, seed=7),
        FDE(SIZE, planes=2, repetitions=3, projected=4, final=21),
        FDE(SIZE, planes=0, repetitions=1),
    ],
)
def test_encodings_are_those_of_the_formula(form: FDE, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = random_sets(1, [5, 1, 0, 9, 0, 40])
    for values in (1 << 22, 300):  # all at once, and a few sets at a time
        monkeypatch.setattr("mllm_embed.vectors.fde._VALUES", values)
        for encode, document in ((form.queries, False), (form.documents, True)):
            found = encode(flat(sets))
            assert found.shape == (len(sets), form.width) and found.dtype == np.float32
            right = [encoded(form, points, document) for points in sets]
            np.testing.assert_allclose(found, right, atol=2e-6)


def test_a_product_is_never_above_maxsim_and_comes_near_with_planes() -> None:
    documents = random_sets(2, [3, 17, 30, 1])
    noise = np.random.default_rng(3).standard_normal
    queries = [unit(one[:6] + 0.15 * noise(one[:6].shape).astype(np.float32)) for one in documents]
    right = maxsim(flat(queries), flat(documents))
    short = []
    for planes in (1, 4, 9):
        form = FDE(SIZE, planes=planes, repetitions=20)
        found = form.queries(flat(queries)) @ form.documents(flat(documents)).T
        assert (found <= right + 1e-5).all()  # one side of theorem 2.1, and without projections not of chance
        short.append(float((right - found).mean()))
    assert short[0] > short[1] > short[2] > 0 and short[2] < 0.2


def test_projections_err_to_both_sides_and_less_the_wider_they_are() -> None:
    documents, queries = random_sets(4, [20] * 12, 32), random_sets(5, [6] * 12, 32)
    whole = FDE(32, planes=3, repetitions=10)
    right = whole.queries(flat(queries)) @ whole.documents(flat(documents)).T
    errors = [
        form.queries(flat(queries)) @ form.documents(flat(documents)).T - right
        for form in (FDE(32, 3, 10, projected=4), FDE(32, 3, 10, projected=24), FDE(32, 3, 10, final=100))
    ]
    assert np.abs(errors[1]).mean() < 0.6 * np.abs(errors[0]).mean()
    assert all(error.min() < 0 < error.max() for error in errors)


def test_what_cannot_be_encoded_is_told() -> None:
    for wrong, words in (
        ({"planes": 17}, "planes must be between 0 and 16, not 17"),
        ({"repetitions": 0}, "repetitions must be at least 1, not 0"),
        ({"final": 0}, "final must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            FDE(SIZE, **wrong)
    with pytest.raises(DataError, match="vectors of 8 numbers, not of 12"):
        FDE(8).queries(flat(random_sets(6, [2, 3])))
