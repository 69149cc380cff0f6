"""Ranking equals a sort written out by hand, with ties, near ties and exclusions."""

import math

import numpy as np
import pytest

from mllm_embed.errors import DataError
from mllm_embed.vectors.ranking import TargetRanks, ranks_among, ranks_of_targets, top_among, top_k

KINDS = ("random", "duplicated", "grid", "close", "equal")


def vectors(kind: str, seed: int, queries: int = 24, gallery: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    size = 48
    if kind == "grid":
        return tuple(rng.integers(-1, 2, (count, 3)).astype(np.float32) for count in (queries, gallery))
    q, g = (rng.standard_normal((count, size)).astype(np.float32) for count in (queries, gallery))
    if kind == "duplicated":
        g = g[rng.integers(0, gallery // 4, gallery)]
        q[: queries // 2] = g[: queries // 2]
    if kind == "close":
        g = g[:1] + 3e-7 * g
    if kind == "equal":
        g = np.repeat(g[:1], gallery, axis=0)
    return tuple(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (q, g))


def excluded(seed: int, queries: int, gallery: int) -> list[set[int]]:
    rng = np.random.default_rng(seed)
    sizes = rng.choice([0, 1, 3, 40, gallery - 2], queries)
    return [set(rng.choice(gallery, size, replace=False).tolist()) for size in sizes]


def brute_force(q: np.ndarray, g: np.ndarray, exclude: list[set[int]]) -> list[list[tuple[int, float]]]:
    """Every allowed gallery position with its exactly summed score, sorted by (-score, position)."""
    ranking = []
    for row, left_out in zip(q.tolist(), exclude, strict=True):
        scores = [float(np.float32(math.fsum(map(float.__mul__, row, other)))) for other in g.tolist()]
        allowed = [position for position in range(len(g)) if position not in left_out]
        ranking.append([(at, scores[at]) for at in sorted(allowed, key=lambda at: (-scores[at], at))])
    return ranking


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_top_k_is_a_sort_by_score_then_position(kind: str, seed: int) -> None:
    q, g = vectors(kind, seed)
    exclude = excluded(seed, len(q), len(g))
    expected = brute_force(q, g, exclude)
    for k in (1, 5, 30, len(g), len(g) + 7):
        scores, indices = top_k(q, g, k, exclude)
        assert scores.shape == indices.shape == (len(q), min(k, len(g)))
        assert scores.dtype == np.float32
        for row, (found, values) in enumerate(zip(indices.tolist(), scores.tolist(), strict=True)):
            wanted = expected[row][:k]
            assert list(zip(found, values, strict=True))[: len(wanted)] == wanted
            assert all(pair == (-1, -math.inf) for pair in list(zip(found, values, strict=True))[len(wanted) :])


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_agree_with_the_sort_and_with_top_k(kind: str) -> None:
    q, g = vectors(kind, 7)
    exclude = excluded(7, len(q), len(g))
    rng = np.random.default_rng(1)
    allowed = [[at for at in range(len(g)) if at not in left_out] for left_out in exclude]
    targets = [rng.permutation(row)[: 1 + number % 4].tolist() for number, row in enumerate(allowed)]
    ranks = ranks_of_targets(q, g, targets, exclude).gallery
    indices = top_k(q, g, len(g), exclude)[1]
    for row, ordered in enumerate(brute_force(q, g, exclude)):
        order = [at for at, _ in ordered]
        assert ranks[row].tolist() == [1 + order.index(target) for target in targets[row]]
        assert ranks[row].tolist() == [1 + indices[row].tolist().index(target) for target in targets[row]]


def test_a_score_does_not_depend_on_the_other_queries() -> None:
    # FAISS itself gives other last bits below 20 queries than above: the reason for a score of our own.
    q, g = vectors("random", 3, queries=64, gallery=400)
    together = top_k(q, g, 400)
    for row in range(0, 64, 9):
        alone = top_k(q[row : row + 1], g, 400)
        assert (alone[0][0] == together[0][row]).all()
        assert (alone[1][0] == together[1][row]).all()


def test_equal_scores_come_in_gallery_order_beyond_what_is_fetched_first() -> None:
    g = np.ones((5000, 8), dtype=np.float32)
    g[4321] *= 2
    assert top_k(g[:1], g, 4)[1].tolist() == [[4321, 0, 1, 2]]
    assert ranks_of_targets(g[:1], g, [[4999, 0, 4321]]).gallery[0].tolist() == [5000, 2, 1]


def test_without_exclusion_nothing_is_left_out() -> None:
    q, g = vectors("random", 5)
    assert (top_k(q, g, 9)[1] == top_k(q, g, 9, [set()] * len(q))[1]).all()
    assert ranks_of_targets(q[:0], g, []).gallery == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_vectors_that_are_not_finite_are_refused(value: float, where: int) -> None:
    both = [np.ones((3, 4), dtype=np.float32), np.ones((5, 4), dtype=np.float32)]
    both[where][2, 1] = value
    with pytest.raises(DataError, match=f"{('queries', 'gallery')[where]} row 2 .*NaN or infinite"):
        top_k(*both, 2)
    with pytest.raises(DataError, match="row 2"):
        ranks_of_targets(*both, [[0]] * 3)


@pytest.mark.parametrize(
    ("q", "g", "k", "exclude", "message"),
    [
        ((2, 4), (3, 5), 1, None, "queries have 4 dimensions and the gallery 5"),
        ((2, 4), (0, 4), 1, None, "gallery is empty"),
        ((4,), (3, 4), 1, None, "must be a matrix"),
        ((2, 4), (3, 4), 0, None, "k must be at least 1, not 0"),
        ((2, 4), (3, 4), 1, [{0}], "exclude has 1 entries for 2 queries"),
        ((2, 4), (3, 4), 1, [{0}, {3}], "exclude of query 1: 3 is no position in a gallery of 3"),
        ((2, 4), (3, 4), 1, [{-1}, set()], "exclude of query 0: -1"),
    ],
)
def test_what_does_not_fit_is_refused(q: tuple, g: tuple, k: int, exclude: list | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        top_k(np.ones(q, dtype=np.float32), np.ones(g, dtype=np.float32), k, exclude)


def test_an_excluded_target_has_no_rank() -> None:
    ones = np.ones((3, 4), dtype=np.float32)
    with pytest.raises(DataError, match="query 1: its target 2 is excluded"):
        ranks_of_targets(ones[:2], ones, [[0], [1, 2]], [{2}, {2}])


def by_hand(q: np.ndarray, g: np.ndarray, targets: list[list[int]], candidates: list[list[int]]) -> TargetRanks:
    """The three rules in plain words, over every candidate of every target."""
    rules: dict[str, list] = {"gallery": [], "optimistic": [], "pessimistic": []}
    for row, right, allowed in zip(q.tolist(), targets, candidates, strict=True):
        score = {at: float(np.float32(math.fsum(map(float.__mul__, row, g[at].tolist())))) for at in allowed}
        ranks: dict[str, list[int]] = {rule: [] for rule in rules}
        for target in right:
            for rule, places in ranks.items():
                place = 1
                for at in allowed:
                    if at == target:
                        continue
                    ahead = at < target if rule == "gallery" or at in right else rule == "pessimistic"
                    place += score[at] > score[target] or (score[at] == score[target] and ahead)
                places.append(place)
        for rule, places in ranks.items():
            rules[rule].append(np.array(places))
    return TargetRanks(**rules)


def same(ranks: TargetRanks, others: TargetRanks) -> bool:
    return all(
        [row.tolist() for row in getattr(ranks, rule)] == [row.tolist() for row in getattr(others, rule)]
        for rule in ("gallery", "optimistic", "pessimistic")
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("several", [1, 4, 99])  # targets from which on products are sorted
def test_the_three_tie_rules_are_those_written_out_by_hand(
    kind: str, several: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_embed.vectors.counting._SEVERAL", several)
    monkeypatch.setattr("mllm_embed.vectors.counting._BLOCK_VALUES", 60 * 7)  # seven queries at a time
    q, g = vectors(kind, 11, gallery=60)
    exclude = excluded(11, len(q), len(g))
    rng = np.random.default_rng(2)
    allowed = [[at for at in range(len(g)) if at not in left_out] for left_out in exclude]
    targets = [rng.permutation(row)[: 1 + number % 5].tolist() for number, row in enumerate(allowed)]
    assert same(ranks_of_targets(q, g, targets, exclude), by_hand(q, g, targets, allowed))
    few = [[*right, *rng.permutation(len(g))[:9].tolist()] for right in targets]
    few[3] += few[3][-2:]  # named twice, counts twice
    assert same(ranks_among(q, g, targets, few), by_hand(q, g, targets, few))


def test_a_constant_embedding_is_only_lucky_under_the_optimistic_rule() -> None:
    ones = np.ones((40, 4), dtype=np.float32)
    ranks = ranks_of_targets(ones[:8], ones, [[at] for at in range(8)])
    assert [int(row[0]) for row in ranks.optimistic] == [1] * 8
    assert [int(row[0]) for row in ranks.gallery] == list(range(1, 9))
    assert [int(row[0]) for row in ranks.pessimistic] == [40] * 8


def test_a_target_must_be_a_candidate() -> None:
    ones = np.ones((3, 4), dtype=np.float32)
    with pytest.raises(DataError, match="query 1: its target 2 is not one of its candidates"):
        ranks_among(ones[:2], ones, [[0], [2]], [[0, 1], [0, 1]])


@pytest.mark.parametrize("scale", [1e-25, 1e15, 1e19])
def test_very_short_and_very_long_vectors_are_ranked_as_well(scale: float) -> None:
    q, g = vectors("random", 4)
    assert top_k(q, g * np.float32(scale), 5)[1].tolist() == top_k(q, g, 5)[1].tolist()


def test_vectors_whose_products_overflow_are_refused() -> None:
    long = np.full((3, 4), 1e30, dtype=np.float32)
    for rank in (lambda: top_k(long, long, 2), lambda: ranks_of_targets(long, long, [[0]] * 3)):
        with pytest.raises(DataError, match="too long for float32 products .*: give them unit length"):
            rank()


@pytest.mark.parametrize("kind", KINDS)
def test_long_lists_of_candidates_shared_or_not_rank_as_short_ones_do(kind: str) -> None:
    q, g = vectors(kind, 12, gallery=300)
    rng = np.random.default_rng(3)
    run, scattered = range(40, 140), rng.permutation(300)[:90].tolist()
    twice = [*range(70), 5, 6]
    lists = [run, scattered, run, list(range(64)), twice, [7, 3, 9]]
    few = [lists[number % len(lists)] for number in range(len(q))]
    targets = [[int(at) for at in rng.choice(list(row), 2, replace=False)] for row in few]
    assert same(ranks_among(q, g, targets, few), by_hand(q, g, targets, few))
    scores, found = top_among(q, g, 5, few)
    for number, row in enumerate(few):
        left_out = set(range(len(g))) - set(row)
        order = brute_force(q[number : number + 1], g, [left_out])[0]
        wanted = [pair for pair in order for _ in range(list(row).count(pair[0]))][:5]
        given = list(zip(found[number].tolist(), scores[number].tolist(), strict=True))
        assert given[: len(wanted)] == wanted and given[len(wanted) :] == [(-1, -math.inf)] * (5 - len(wanted))


def test_candidates_may_be_rows_of_a_matrix() -> None:
    q, g = vectors("random", 6, gallery=300)
    rng = np.random.default_rng(5)
    few = np.stack([rng.permutation(300)[:80] for _ in q])
    lists = few.tolist()
    assert same(ranks_among(q, g, few[:, :2], few), by_hand(q, g, few[:, :2].tolist(), lists))
    for given, wanted in zip(top_among(q, g, 5, few), top_among(q, g, 5, lists), strict=True):
        assert np.array_equal(given, wanted)


def test_what_is_wrong_with_a_list_names_its_query() -> None:
    ones = np.ones((100, 4), dtype=np.float32)
    few = [range(80), range(90), [3, 100]]
    with pytest.raises(DataError, match="candidates of query 2: 100 is no position"):
        ranks_among(ones[:3], ones, [[0], [1], [3]], few)
    with pytest.raises(DataError, match="query 1: its target 95 is not one of its candidates"):
        ranks_among(ones[:3], ones, [[0], [95], [3]], [range(80), range(90), [3, 4]])
    with pytest.raises(DataError, match="targets has 2 entries for 3 queries"):
        ranks_among(ones[:3], ones, [[0], [1]], few)
