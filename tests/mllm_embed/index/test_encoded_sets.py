"""Sets of vectors behind an index: what it finds is what MaxSim finds, ranked by MaxSim."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.index.encoded_sets import EncodedSets
from mllm_embed.vectors.fde import FDE
from mllm_embed.vectors.maxsim import maxsim
from mllm_embed.vectors.multi import MultiVectors
from mllm_embed.vectors.unit import unit

SIZE, FORM = 16, FDE(16, planes=3, repetitions=8, projected=8)


def sets(count: int, seed: int) -> MultiVectors:
    rng = np.random.default_rng(seed)
    parts = [unit(rng.standard_normal((rng.integers(4, 12), SIZE)).astype(np.float32)) for _ in range(count)]
    return MultiVectors.of(parts, SIZE)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "sq8"])
def test_an_index_finds_what_maxsim_finds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_embed.index.encoded_sets._VALUES", 100 * FORM.width)  # several blocks
    documents = sets(400, 1)
    rng = np.random.default_rng(2)
    queries = MultiVectors.of(
        [unit(documents[at][:3] + 0.1 * rng.standard_normal((3, SIZE)).astype(np.float32)) for at in range(0, 60, 2)],
        SIZE,
    )
    right = maxsim(queries, documents)
    best = np.argsort(-right, axis=1, kind="stable")[:, :10]
    index = EncodedSets(documents, FORM, kind)
    scores, rows = index.search(queries, 10, depth=8)
    assert (scores == np.take_along_axis(right, rows, axis=1)).all() and (np.diff(scores) <= 0).all()
    assert (rows[:, 0] == best[:, 0]).mean() > 0.9
    # by chance 80 candidates of 400 would hold a fifth
    assert np.mean([np.isin(one, other).mean() for one, other in zip(best, rows, strict=True)]) > 0.5
    if kind == "flat":  # all documents ranked again, and more asked for than there are
        scores, rows = index.search(queries, 410)
        assert (rows[:, :10] == best).all() and (rows[:, 400:] == -1).all() and (scores[:, 400:] == -np.inf).all()


def test_what_cannot_be_indexed_or_asked() -> None:
    for kind in ("binary", "bebr", "ivf-disk"):
        with pytest.raises(ConfigError, match=f"which '{kind}' does not do"):
            EncodedSets(sets(3, 3), FORM, kind)
    with pytest.raises(DataError, match="there is no document"):
        EncodedSets(sets(0, 3), FORM)
    with pytest.raises(DataError, match="document 1 has no vectors"):
        EncodedSets(MultiVectors.of([sets(1, 3)[0], np.empty((0, SIZE), np.float32)], SIZE), FORM)
    index = EncodedSets(sets(3, 3), FORM)
    with pytest.raises(ConfigError, match="at least 1, not 0 and 10"):
        index.search(sets(1, 4), 0)
    with pytest.raises(DataError, match="queries have 4 dimensions and the gallery 16"):
        index.search(MultiVectors.of([np.ones((1, 4), np.float32)], 4), 1)
