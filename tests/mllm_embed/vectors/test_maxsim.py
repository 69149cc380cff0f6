"""MaxSim against loops, and its rankings against those of single vectors."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.vectors.maxsim import maxsim, ranks_by_scores, top_by_scores
from mllm_embed.vectors.multi import MultiVectors
from mllm_embed.vectors.ranking import ranks_of_targets, top_k
from mllm_embed.vectors.token_pooling import check_factor, pooled_tokens
from mllm_embed.vectors.unit import unit


def _ragged(rng: np.random.Generator, counts: list[int], width: int = 5) -> MultiVectors:
    return MultiVectors.of([unit(rng.normal(size=(count, width))) for count in counts], width)


def _slow(queries: MultiVectors, gallery: MultiVectors) -> list[list[float]]:
    return [
        [sum(max(float(q @ d) for d in document) for q in query) / len(query) for document in gallery]
        for query in (vectors.astype(np.float64) for vectors in queries)
    ]


@pytest.mark.parametrize("tile", [1, 7, 1 << 21])
def test_all_tiles_give_what_loops_do(tile: int) -> None:
    rng = np.random.default_rng(0)
    queries, gallery = _ragged(rng, [3, 1, 6]), _ragged(rng, [2, 9, 1, 1, 4])
    pairs: list[int] = []
    np.testing.assert_allclose(maxsim(queries, gallery, tile, pairs.append), _slow(queries, gallery), atol=1e-7)
    assert sum(pairs) == 15
    longer = MultiVectors.of([unit(rng.normal(size=(700, 5))), unit(rng.normal(size=(500, 5)))], 5)
    np.testing.assert_allclose(maxsim(longer, gallery, tile), _slow(longer, gallery), atol=1e-7)


def test_a_list_of_matrices_stays_one() -> None:
    rng = np.random.default_rng(1)
    vectors = _ragged(rng, [2, 0, 3, 1])
    assert [len(own) for own in vectors] == vectors.counts.tolist() == [2, 0, 3, 1] and len(vectors) == 4
    np.testing.assert_array_equal(vectors.take([3, 0])[1], vectors[0])
    np.testing.assert_array_equal(vectors[-1], vectors[3])
    joined = vectors.united([1, 2, 1])
    assert joined.counts.tolist() == [2, 3, 1] and joined.values is vectors.values
    with pytest.raises(DataError, match=r"gallery 1 has no vectors \(1 such\)"):
        maxsim(vectors.take([0]), vectors)
    with pytest.raises(DataError, match="queries have 5 dimensions and the gallery 4"):
        maxsim(vectors, _ragged(rng, [1], 4))


def test_one_vector_an_input_ranks_as_single_vectors_do() -> None:
    rng = np.random.default_rng(2)
    queries, gallery = unit(rng.normal(size=(6, 4))), unit(rng.normal(size=(20, 4)))
    gallery[11] = gallery[3]  # twins
    targets, exclude = [[3], [11, 2], [0], [], [5, 6], [19]], [[1], [], [7, 8], [2], [], []]
    scores = maxsim(*(MultiVectors.of(list(own[:, None]), 4) for own in (queries, gallery)))

    def allowed(number: int) -> np.ndarray:
        return np.setdiff1d(np.arange(20), exclude[number])

    wanted, found = ranks_of_targets(queries, gallery, targets, exclude), ranks_by_scores(scores, targets, allowed)
    for rule in ("gallery", "optimistic", "pessimistic"):
        assert [row.tolist() for row in getattr(found, rule)] == [row.tolist() for row in getattr(wanted, rule)]
    np.testing.assert_array_equal(top_by_scores(scores, 19, allowed)[:, :18], top_k(queries, gallery, 18, exclude)[1])
    with pytest.raises(DataError, match="query 0: its target 1 takes no part"):
        ranks_by_scores(scores, [[1], *targets[1:]], allowed)


def test_near_vectors_become_their_mean() -> None:
    rng = np.random.default_rng(3)
    vectors = unit(rng.normal(size=(11, 6)))
    clusters, seen = [[row] for row in range(11)], (1 - vectors @ vectors.T).astype(np.float64)

    def growth(one: list[int], other: list[int]) -> float:
        """Ward's: what the squared distances to the mean grow by if two clusters become one."""
        apart, together = (
            sum(((seen[c] - seen[c].mean(0)) ** 2).sum() for c in part) for part in ((one, other), (one + other,))
        )
        return together - apart

    while len(clusters) > 11 // 3:
        pairs = [(one, other) for at, one in enumerate(clusters) for other in clusters[:at]]
        one, other = min(pairs, key=lambda pair: growth(*pair))
        clusters = [c for c in clusters if c not in (one, other)] + [sorted(one + other)]
    wanted = unit(np.stack([vectors[c].mean(0) for c in sorted(clusters)]))
    np.testing.assert_allclose(pooled_tokens(vectors, 3), wanted, atol=1e-6)
    assert pooled_tokens(vectors, 1) is vectors and len(pooled_tokens(vectors, 99)) == 1
    with pytest.raises(ConfigError, match="pool_factor is how many vectors become one.*not 0"):
        check_factor(0)
