"""Every kind of index answers with min(k, what may answer) rows, nearly the nearest, whatever is filtered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mllm_embed.errors import DataError
from mllm_embed.index import faiss_index
from mllm_embed.index.build import build_index
from mllm_embed.index.effort import Effort
from mllm_embed.index.kinds import OF_STORES
from mllm_embed.store.gallery import Gallery, MemoryGallery, StoreGallery
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.vectors.unit import unit

ROWS, SIZE, QUERIES = 1500, 28, 12  # numbers that are not a multiple of 8
SLOW = [name for name, kind in OF_STORES.items() if kind.slow]
MARKED = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in OF_STORES]
KS = (1, 10, 37, ROWS + 9)


def clustered(rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, SIZE))
    return unit(centres[rng.integers(40, size=rows)] + 0.6 * rng.standard_normal((rows, SIZE)))


def store_of(folder: Path, vectors: np.ndarray) -> VectorStore:
    store = VectorStore.create(folder, vectors.shape[1])
    for at in range(0, len(vectors), 700):
        some = vectors[at : at + 700]
        store.add([f"r{at + row}" for row in range(len(some))], some)
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VectorStore:
    return store_of(tmp_path_factory.mktemp("left") / "store", clustered(ROWS, 0))


def scores_of(store: VectorStore, queries: np.ndarray) -> np.ndarray:
    """Exact scores [Q, N], -inf of what was removed."""
    scores = queries.astype(np.float64) @ store.rows(0, len(store)).T.astype(np.float64)
    return np.where(store.alive, scores, -np.inf)


def limits(store: VectorStore, scores: np.ndarray, rng: np.random.Generator) -> dict[str, dict]:
    """Filters of every sort, those that have most to do with the queries among them, by name."""
    alive = np.flatnonzero(store.alive)
    order = np.argsort(-scores, axis=1)[:, : len(alive)]

    def names(rows: np.ndarray) -> list[str]:
        return [store.ids[row] for row in rows]

    some = rng.choice(alive, 5, replace=False)
    return {
        "nothing": {},
        "five allowed": {"allow": names(some)},
        "half allowed": {"allow": names(alive[::2])},
        "a tenth allowed": {"allow": names(alive[::10])},
        "what is far from the first query": {"allow": names(order[0, len(alive) // 2 :])},
        "all but five excluded": {"exclude": [names(np.setdiff1d(alive, some))] * len(scores)},
        "the nearest excluded": {"exclude": [names(row[:150]) for row in order]},
        "a few excluded, one twice": {"exclude": [names(np.r_[row[:3], row[:1]]) for row in order]},
        "half allowed, the nearest excluded": {
            "allow": names(alive[::2]),
            "exclude": [names(row[:60]) for row in order],
        },
    }


def check(gallery: Gallery, store: VectorStore, queries: np.ndarray, recall: float, ks: tuple[int, ...] = KS) -> None:
    """Compare all answers, for all k and filters, with what is right."""
    scores, number = scores_of(store, queries), {name: row for row, name in enumerate(store.ids) if store.alive[row]}
    for name, options in limits(store, scores, np.random.default_rng(1)).items():
        may = np.where(np.isneginf(scores), False, True)
        if "allow" in options:
            may &= np.isin(np.arange(len(store)), [number[one] for one in options["allow"]])
        for row, excluded in enumerate(options.get("exclude", ())):
            may[row, [number[one] for one in excluded]] = False
        for k in ks:
            found, shares = gallery.nearest(queries, k, **options), []
            for row, answer in enumerate(found):
                rows = [number[one] for one, _ in answer]
                assert len(set(rows)) == len(rows) == min(k, may[row].sum()), (name, k, row)
                assert may[row, rows].all(), (name, k, row)
                assert [score for _, score in answer] == pytest.approx(scores[row, rows].tolist(), abs=2e-3)
                if rows:  # rows that score alike are as good as one another
                    least = np.sort(scores[row, may[row]])[-len(rows)]
                    shares.append(np.mean(scores[row, rows] >= least - 1e-6))
            # a share of few queries spreads about the card's, which is of 256
            assert np.mean(shares) >= recall - 0.05 - 1 / (len(shares) * min(k, 10)), (name, k, np.mean(shares))


@pytest.mark.parametrize("kind", MARKED)
def test_as_many_as_may_answer_come_and_nearly_the_nearest(
    store: VectorStore, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "WALKED", 4)  # as in a store of 12,000 rows: few searches are exact
    made = build_index(store, tmp_path / "i", kind, show_progress=False)
    queries = unit(store.take(np.arange(0, ROWS, ROWS // QUERIES)[:QUERIES]) + 0.1 * clustered(QUERIES, 3))
    check(made, store, queries, min(made.card["recall"], 0.97))


@pytest.mark.parametrize("kind", ["hnsw", "rabitq"])
def test_rows_that_come_and_go_are_counted_too(tmp_path: Path, kind: str) -> None:
    vectors = clustered(ROWS, 0)
    own = store_of(tmp_path / "s", vectors[:1200])
    made = build_index(own, tmp_path / "i", kind, show_progress=False)
    made.remove([f"r{row}" for row in range(0, 1200, 3)])
    made.add([f"new{row}" for row in range(300)], vectors[1200:])
    queries = unit(vectors[:QUERIES] + 0.1 * clustered(QUERIES, 3))
    check(made, own, queries, min(made.card["recall"], 0.97), (10, 37, ROWS))


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_what_lies_behind_the_nearest_cluster_is_found_where_that_is_excluded(tmp_path: Path, kind: str) -> None:
    vectors = clustered(6000, 0)  # 150 in each cluster, and too many to be compared one by one
    own = VectorStore.create(tmp_path / "s", SIZE)
    own.add([f"r{row}" for row in range(len(vectors))], vectors)
    made = build_index(own, tmp_path / "i", kind, show_progress=False)
    queries = unit(vectors[:50] + 0.1 * clustered(50, 3))
    order = np.argsort(-scores_of(own, queries), axis=1)
    for k, gone in ((1, 150), (10, 150), (10, 5), (37, 60)):
        found = made.nearest(queries, k, exclude=[[own.ids[row] for row in rows[:gone]] for rows in order])
        shares = []
        for answer, rows in zip(found, order, strict=True):
            shares.append(len({name for name, _ in answer} & {own.ids[row] for row in rows[gone : gone + k]}) / k)
        assert np.mean(shares) >= min(made.card["recall"], 0.97) - 0.03, (k, gone)


@pytest.mark.parametrize("copies", [1, 20])
def test_exact_galleries_answer_alike(tmp_path: Path, copies: int) -> None:
    vectors = np.repeat(clustered(600 // copies, 0), copies, axis=0)  # equal scores, where there are copies
    own = store_of(tmp_path / "s", vectors)
    memory = MemoryGallery(own.ids, vectors, [None] * len(vectors))
    stored = StoreGallery(own)
    queries = clustered(9, 5)
    for options in limits(own, scores_of(own, queries), np.random.default_rng(2)).values():
        for k in (1, 7, 600):
            assert memory.nearest(queries, k, **options) == stored.nearest(queries, k, **options)
    check(stored, own, queries, 1.04, (1, 7, 90, 600))  # all of the nearest


@pytest.mark.parametrize(("rows", "size"), [(1, 13), (3, 1), (41, 32)])
def test_a_tiny_store_of_any_size_has_any_kind_of_index(tmp_path: Path, rows: int, size: int) -> None:
    vectors = unit(np.random.default_rng(rows).standard_normal((rows, size)))
    own = store_of(tmp_path / "s", vectors)
    right = StoreGallery(own).nearest(vectors[:1], rows)[0]
    for kind in OF_STORES if size > 1 else ("flat", "hnsw", "ivf", "binary"):
        made = build_index(own, tmp_path / kind, kind, show_progress=False)
        assert sorted(name for name, _ in made.nearest(vectors[:1], rows + 5)[0]) == sorted(name for name, _ in right)


def test_an_index_of_a_version_that_measured_ten_answers_alone_grows_in_proportion(
    store: VectorStore, tmp_path: Path
) -> None:
    made = build_index(store, tmp_path / "i", "hnsw", show_progress=False)
    made.effort = Effort({10: (made.setting, made.rerank)})
    assert made.effort.at(70, made.setting, 1, ROWS) == (7 * made.setting, 1)
    assert made.effort.at(3, made.setting, 1, ROWS) == (made.setting, 1)
    check(made, store, store.take(np.arange(QUERIES)), made.card["recall"], (10, 70))


def test_effort_is_that_of_the_next_measured_number_and_follows_the_setting_in_use() -> None:
    effort = Effort({10: (4, 2), 100: (16, 2), 1000: (64, 8)})
    assert [effort.at(depth, 4, 2, 10**6) for depth in (10, 100, 1000, 4000)] == [(4, 2), (16, 2), (64, 8), (256, 8)]
    assert effort.at(11, 4, 2, 10**6) == (16, 2) and effort.at(101, 4, 2, 10**6) == (64, 8)
    assert effort.at(100, 8, 6, 10**6) == (32, 6)
    assert effort.at(4000, 4, 2, 100) == (100, 8) and effort.at(1000, 0, 2, 0)[0] == 0


def test_what_was_looked_at_once_is_what_is_searched(tmp_path: Path) -> None:
    vectors = clustered(50, 0)
    given = vectors.copy()
    memory = MemoryGallery([f"r{row}" for row in range(50)], given, [None] * 50)
    given[:] = 0  # of the caller's own
    assert memory.nearest(vectors[:3], 1) == [[(f"r{row}", pytest.approx(1))] for row in range(3)]
    with pytest.raises(ValueError, match="read-only"):
        memory.vectors[0] = 0
    memory.remove(["r0", "r2"])
    memory.add(["r2"], vectors[:1])
    assert memory.nearest(vectors[:2], 1) == [[("r2", pytest.approx(1))], [("r1", pytest.approx(1))]]
    assert len(memory) == 49 and memory.sources(["r2"]) == [None]
    own = store_of(tmp_path / "s", vectors)
    stored = StoreGallery(own)
    assert stored.nearest(vectors[:1], 1)[0][0][0] == "r0"
    own.remove(["r0"])  # behind the gallery
    own.add(["r0"], vectors[1:2])
    assert [name for name, _ in stored.nearest(vectors[1:2], 2)[0]] == ["r1", "r0"]
    assert not own.alive[0] and own.alive[1:].all()


@pytest.mark.parametrize("where", ["memory", "store", "flat"])
def test_a_frozenset_of_ids_is_looked_up_again_once_rows_have_changed(tmp_path: Path, where: str) -> None:
    vectors = clustered(50, 0)
    own = store_of(tmp_path / "s", vectors)
    gallery: Gallery = StoreGallery(own)
    if where == "memory":
        gallery = MemoryGallery(own.ids, vectors, [None] * 50)
    elif where == "flat":
        gallery = build_index(own, tmp_path / "i", "flat", show_progress=False)
    allow = frozenset(["r1", "r2", "new"])
    with pytest.raises(DataError, match='the id "new" is not in'):
        gallery.nearest(vectors[:1], 5, allow=allow)
    gallery.add(["new"], vectors[:1])
    for _ in range(2):
        assert {name for name, _ in gallery.nearest(vectors[:1], 5, allow=allow)[0]} == allow
    gallery.remove(["r1"])
    with pytest.raises(DataError, match='the id "r1" is not in'):
        gallery.nearest(vectors[:1], 5, allow=allow)


@pytest.mark.parametrize("kind", [list, set, frozenset])
def test_many_ids_are_found_whatever_holds_them_and_one_that_came_again_once(tmp_path: Path, kind: type) -> None:
    vectors = clustered(50, 0)
    own = store_of(tmp_path / "s", vectors)
    gallery = StoreGallery(own)
    gallery.remove(["r0", "r1"])
    gallery.add(["r0"], vectors[:1])  # two rows have this id, of which one is alive
    names = [f"r{row}" for row in range(50) if row != 1]
    for some in (names[::2], names[:40], names):
        for _ in range(2):
            found = gallery.nearest(vectors[:1], 60, allow=kind(some))[0]
            assert sorted(name for name, _ in found) == sorted(some)
    with pytest.raises(DataError, match='the id "r1" is not in'):
        gallery.nearest(vectors[:1], 5, allow=kind([*names[:40], "r1"]))
    if kind is not frozenset:
        given = kind(names)
        gallery.nearest(vectors[:1], 5, allow=given)
        given.remove("r0")  # what is given again may have changed
        assert gallery.nearest(vectors[:1], 5, allow=given)[0][0][0] != "r0"
