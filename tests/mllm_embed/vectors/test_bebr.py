"""Recurrent binary codes: what their formulas say, and what is learned from vectors alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mllm_embed.vectors.bebr import training
from mllm_embed.vectors.bebr.codes import cosines, lengths, pack, points
from mllm_embed.vectors.bebr.form import Form
from mllm_embed.vectors.bebr.head import Head, Map
from mllm_embed.vectors.bebr.training import contrast, learn
from mllm_embed.vectors.unit import unit

SIZE, FORM = 24, Form(levels=3, bits=16)


def vectors(rows: int, seed: int) -> np.ndarray:
    """Rows in clusters, which lie in a few directions more than in others."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((30, SIZE)) * np.linspace(2, 0.1, SIZE)
    noise = 0.5 * rng.standard_normal((rows, SIZE)) * np.linspace(2, 0.1, SIZE)
    return unit((centres[rng.integers(30, size=rows)] + noise).astype(np.float32))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_STEPS", 60)


def coded(head: Head, row: np.ndarray) -> list[list[int]]:
    """The recurrence for one row: the signs of its levels."""

    def through(one: Map, x: np.ndarray) -> np.ndarray:
        return x @ one.straight + one.shift + np.maximum(x @ one.into + one.bias, 0) @ one.out

    signs = [np.where(through(head.first, row) > 0, 1, -1)]
    for back, rest in zip(head.back, head.rest, strict=True):
        so_far = through(back, sum(2.0**-u * sign for u, sign in enumerate(signs)))
        signs.append(np.where(through(rest, row - so_far / np.linalg.norm(so_far)) > 0, 1, -1))
    return [list(sign) for sign in signs]


def test_codes_are_those_of_the_recurrence(short: None, tmp_path: Path) -> None:
    rows = vectors(400, 1)
    head = learn(rows, FORM)
    codes = head.codes(rows[:50])
    assert codes.shape == (50, 3, 2) and codes.dtype == np.uint8 and FORM.bytes == 6
    signs = np.array([coded(head, row.astype(np.float64)) for row in rows[:50]])
    assert (codes == pack(signs)).mean() > 0.999  # a number next to 0 may round to the other side
    head.save(tmp_path / "head")
    again = Head.read(tmp_path / "head", SIZE)
    assert (again.codes(rows) == head.codes(rows)).all() and (again.levels, again.bits) == (3, 16)
    assert (learn(rows, FORM).codes(rows) == head.codes(rows)).all()  # nothing is left to chance
    numbers = sum(part.size for one in (head.first, *head.back, *head.rest) for part in vars(one).values())
    assert numbers == FORM.coder_numbers(SIZE)
    with pytest.raises(ValueError, match="not float32 of"):
        Head.read(tmp_path / "head", SIZE + 1)


@pytest.mark.parametrize(("levels", "asked"), [(1, 5), (2, 3), (4, 5), (4, 17), (11, 17)])
def test_cosines_by_bits_are_those_of_the_points(levels: int, asked: int) -> None:
    rng = np.random.default_rng(2)
    queries, rows = (rng.integers(0, 256, (count, levels, 3), dtype=np.uint8) for count in (asked, 20))
    assert (cosines(queries, rows) == np.concatenate([cosines(one[None], rows) for one in queries])).all()

    def point(code: np.ndarray) -> list[float]:
        bits = np.unpackbits(code, axis=1)
        return [sum((1 if bits[u, at] else -1) / 2**u for u in range(levels)) for at in range(24)]

    for query, found in zip(queries, cosines(queries, rows), strict=True):
        for row, cosine in zip(rows, found, strict=True):
            one, other = point(query), point(row)
            inner = sum(a * b for a, b in zip(one, other, strict=True))
            squares = sum(a * a for a in one) * sum(b * b for b in other)
            assert cosine == pytest.approx(inner / squares**0.5, abs=1e-6)
    np.testing.assert_allclose(points(rows), [point(row) for row in rows], rtol=1e-6)
    np.testing.assert_allclose(lengths(rows) / 2 ** (levels - 1), np.linalg.norm(points(rows), axis=1), rtol=1e-6)


def recall(queries: np.ndarray, rows: np.ndarray, alike: np.ndarray) -> float:
    right = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    found = np.argsort(-alike, axis=1, kind="stable")[:, :10]
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(right, found, strict=True)]))


def test_levels_find_more_than_signs_of_as_many_bits(short: None) -> None:
    rows, queries = vectors(1500, 3), vectors(200, 4)
    signs = recall(queries, rows, np.sign(queries) @ np.sign(rows).T)
    head = learn(rows, Form(levels=3, bits=8))  # 24 bits, as many as signs
    assert recall(queries, rows, cosines(head.codes(queries), head.codes(rows))) > signs + 0.05


def test_new_codes_are_compared_with_those_of_an_older_model(short: None) -> None:
    # another model: the same rows, turned, and seen with some noise
    rows, queries = vectors(700, 5), vectors(60, 6)
    rng = np.random.default_rng(7)
    turn = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0].astype(np.float32)

    def newer(vectors: np.ndarray) -> np.ndarray:
        return unit(vectors @ turn + 0.02 * rng.standard_normal(vectors.shape).astype(np.float32))

    old = learn(rows, FORM)
    codes = old.codes(rows)
    fresh = newer(rows)
    apart, tied = learn(fresh, FORM, seed=1), learn(fresh, FORM, seed=1, old=codes)
    asked = newer(queries)
    across = [recall(queries, rows, cosines(head.codes(asked), codes)) for head in (apart, tied)]
    within = recall(asked, fresh, cosines(tied.codes(asked), tied.codes(fresh)))
    assert across[0] < 0.1 and across[1] > 0.3 and within > 0.3


def test_the_loss_is_that_of_its_formula() -> None:
    rng = np.random.default_rng(8)
    mine, theirs = unit(rng.standard_normal((3, 8))), unit(rng.standard_normal((5, 8)))
    wanted = rng.uniform(-1, 1, (3, 5))
    wanted[1, 4] = -np.inf
    right = 0.0
    for row in range(3):
        may = [at for at in range(5) if wanted[row, at] > -np.inf]
        shares = np.exp(wanted[row, may] / 0.2) / np.exp(wanted[row, may] / 0.2).sum()
        alike = np.array([mine[row] @ theirs[at] / 0.2 for at in may])
        right -= float(shares @ (alike - np.log(np.exp(alike).sum()))) / 3
    found = contrast(*(torch.from_numpy(part.astype(np.float32)) for part in (mine, theirs, wanted)))
    assert float(found) == pytest.approx(right, rel=1e-5)
