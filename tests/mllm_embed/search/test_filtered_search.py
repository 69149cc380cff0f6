"""Filters of metadata, alike in memory, in a store, behind an index and in a Qdrant collection."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mllm_embed.data.filters import parse_filter
from mllm_embed.errors import DataError
from mllm_embed.index import faiss_index
from mllm_embed.index.build import build_index
from mllm_embed.search import qdrant
from mllm_embed.search.qdrant import QdrantGallery, upload
from mllm_embed.store.columns import Columns
from mllm_embed.store.gallery import Gallery, MemoryGallery, StoreGallery
from mllm_embed.store.vector_store import VectorStore
from rows_with_values import COLUMNS, fits, random_filter, random_rows

ROWS, SIZE = 200, 16
KINDS = ["memory", "store", "flat", "hnsw", "qdrant"]


def unit(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, SIZE)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return random_rows(random.Random(7), ROWS)


@pytest.fixture(scope="module")
def galleries(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Gallery]:
    """The same rows in every kind of gallery."""
    names, vectors, home = [f"r{row}" for row in range(ROWS)], unit(ROWS, 1), tmp_path_factory.mktemp("filtered")
    store = stored(home / "store", names, vectors, rows)
    made: dict[str, Gallery] = {
        "memory": MemoryGallery(names, vectors, [None] * ROWS, metadata=rows),
        "store": StoreGallery(store),
        "qdrant": collection(names, vectors, rows),
    }
    for kind in ("flat", "hnsw"):
        index = build_index(store, home / kind, kind, show_progress=False)
        index.setting = index.kind.settings[-1] if index.kind.knob else 0  # so that it finds the right ones
        made[kind] = index
    return made


def stored(folder: Path, names: list[str], vectors: np.ndarray, rows: list[dict[str, Any]]) -> VectorStore:
    store = VectorStore.create(folder, SIZE)
    for start in range(0, len(names), 70):
        part = slice(start, start + 70)
        store.add(names[part], vectors[part], None, rows[part])
    return VectorStore.open(folder)


def collection(names: list[str], vectors: np.ndarray, rows: list[dict[str, Any]]) -> QdrantGallery:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config=models.VectorParams(size=SIZE, distance=models.Distance.COSINE))
    gallery = QdrantGallery(client, "c")
    gallery.add(names, vectors, None, rows)
    return gallery


@pytest.mark.parametrize("kind", KINDS)
def test_random_filters_find_what_their_meaning_says(
    galleries: dict[str, Gallery], rows: list[dict[str, Any]], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, chance, queries = galleries[kind], random.Random(3), unit(2, 2)
    names, scores = [f"r{row}" for row in range(ROWS)], queries @ unit(ROWS, 1).T
    for turn in range(80):
        monkeypatch.setattr(faiss_index, "WALKED", 1 if turn % 2 else 100_000)  # by the index, and exactly
        asked = random_filter(chance, rows, ranges_of_words=kind != "qdrant")
        where = parse_filter(asked)
        right = {name for name, row in zip(names, rows, strict=True) if fits(row, asked)}
        ids, total = gallery.page(0, ROWS, where)
        assert set(ids) == right and total == len(right) == len(ids), asked
        allow = chance.sample(names, chance.choice([1, 20, 150])) if chance.random() < 0.7 else None
        exclude = [chance.sample(names, chance.choice([0, 3, 190])) for _ in queries]
        may = right if allow is None else right & set(allow)
        found = gallery.nearest(queries, 7, allow=allow, exclude=exclude, where=where)
        for own, never, answer in zip(scores, exclude, found, strict=True):
            best = [names[row] for row in np.argsort(-own, kind="stable")]
            assert [name for name, _ in answer] == [name for name in best if name in may - set(never)][:7], asked


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_told(galleries: dict[str, Gallery], rows: list[dict[str, Any]], kind: str) -> None:
    gallery, plain = galleries[kind], Columns.of(rows)
    some = ["r3", "r199", "r0"]
    assert gallery.metadata(some) == plain.rows([3, 199, 0])
    with pytest.raises(DataError, match='"nobody" is not in'):
        gallery.metadata(["nobody"])
    whole, told = plain.summary(), gallery.summary()
    assert list(told) == list(whole)
    for name, summary in whole.items():
        assert (told[name].kind, told[name].least, told[name].most) == (summary.kind, summary.least, summary.most)
        if kind != "qdrant" or summary.kind != "number":  # Qdrant counts no numbers
            assert list((told[name].values or {}).items()) == list((summary.values or {}).items())


@pytest.mark.parametrize("kind", KINDS)
def test_pages_come_in_one_order(galleries: dict[str, Gallery], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = galleries[kind]
    monkeypatch.setattr(qdrant, "_PASSED", 7)
    where = parse_filter({"in stock": True})
    for asked in (None, where):
        whole, total = gallery.page(0, 1000, asked)
        assert total == len(whole) == len(set(whole))
        parts = [gallery.page(at, 30, asked) for at in range(0, total, 30)]
        assert [name for part, _ in parts for name in part] == whole and {count for _, count in parts} == {total}
        assert gallery.page(total, 5, asked) == ([], total) == gallery.page(10**9, 5, asked)
    for offset, limit in ((-1, 5), (0, 0)):
        with pytest.raises(DataError, match="a page begins at row 0 or later"):
            gallery.page(offset, limit)
    if kind != "qdrant":
        assert gallery.page(0, ROWS)[0] == [f"r{row}" for row in range(ROWS)]


@pytest.mark.parametrize("kind", KINDS)
def test_filters_that_do_not_fit(galleries: dict[str, Gallery], kind: str) -> None:
    gallery = galleries[kind]
    for asked, words in (
        ({"color": "red"}, "there is no column \"color\" to filter by; did you mean 'colour'"),
        ({"price": "2"}, 'the column "price" holds numbers'),
        ({"in stock": 1}, 'the column "in stock" holds true and false'),
    ):
        for ask in (lambda where: gallery.nearest(unit(1, 2), 3, where=where), lambda where: gallery.page(0, 3, where)):
            with pytest.raises(DataError, match=words):
                ask(parse_filter(asked))


def test_a_range_of_words_is_not_for_qdrant(galleries: dict[str, Gallery]) -> None:
    with pytest.raises(DataError, match=r'filter of "colour" is a range of words.*keep dates as numbers .20260131.'):
        galleries["qdrant"].nearest(unit(1, 2), 3, where=parse_filter({"colour": {"<": "x"}}))
    with pytest.raises(DataError, match="Qdrant takes no column 'say \"no\"': give it a name without"):
        galleries["qdrant"].add(["x"], unit(1, 1), None, [{'say "no"': 1}])
    with pytest.raises(DataError, match='"price" holds numbers in the collection c, and words here'):
        galleries["qdrant"].add(["x"], unit(1, 1), None, [{"price": "dear"}])
    assert len(galleries["qdrant"]) == ROWS and galleries["qdrant"].summary().keys() == COLUMNS.keys()


def fresh(kind: str, folder: Path) -> Gallery:
    names, vectors = ["a", "b", "c"], np.eye(3, SIZE, dtype=np.float32)
    rows: list[dict[str, Any]] = [{"price": 1}, {"price": 2}, {}]
    if kind == "memory":
        return MemoryGallery(names, vectors, [None] * 3, metadata=rows)
    if kind == "qdrant":
        return collection(names, vectors, rows)
    store = stored(folder / "store", names, vectors, rows)
    return StoreGallery(store) if kind == "store" else build_index(store, folder / "index", kind, show_progress=False)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_and_go_under_a_filter(kind: str, tmp_path: Path) -> None:
    gallery, query = fresh(kind, tmp_path), np.full((1, SIZE), SIZE**-0.5, np.float32)

    def found(asked: dict[str, Any]) -> set[str]:
        where = parse_filter(asked)
        answers = {name for name, _ in gallery.nearest(query, 9, where=where)[0]}
        assert set(gallery.page(0, 9, where)[0]) == answers
        return answers

    cheap, unpriced = {"price": {"<": 1.5}}, {"price": None}
    assert found(cheap) == {"a"} and found(unpriced) == {"c"}
    gallery.add(["d", "e"], np.eye(5, SIZE, dtype=np.float32)[3:], None, [{"price": 0.5}, {"new": ["x", "y"]}])
    assert found(cheap) == {"a", "d"} and found(unpriced) == {"c", "e"} and found({"new": "y"}) == {"e"}
    gallery.add(["f"], np.eye(6, SIZE, dtype=np.float32)[5:])
    assert found(unpriced) == {"c", "e", "f"} and gallery.metadata(["f", "d"]) == [{}, {"price": 0.5}]
    gallery.remove(["a", "c"])
    assert found(cheap) == {"d"} and found(unpriced) == {"e", "f"} and found({}) == {"b", "d", "e", "f"}
    assert gallery.summary()["price"].least == 0.5
    gallery.remove(["d"])
    gallery.add(["d"], np.eye(4, SIZE, dtype=np.float32)[3:])
    assert found(cheap) == set() and gallery.metadata(["d"]) == [{}]
    with pytest.raises(DataError, match="2 ids do not fit the metadata of 1 rows"):
        gallery.add(["g", "h"], np.eye(2, SIZE, dtype=np.float32), None, [{}])


@pytest.mark.parametrize("kind", ["memory", "store", "qdrant"])
def test_where_nothing_is_kept_a_filter_says_so(kind: str, tmp_path: Path) -> None:
    names, vectors = ["a"], np.eye(1, SIZE, dtype=np.float32)
    made = {
        "memory": lambda: MemoryGallery(names, vectors, [None]),
        "store": lambda: StoreGallery(stored(tmp_path / "store", names, vectors, [{}])),
        "qdrant": lambda: collection(names, vectors, [{}]),
    }
    gallery: Gallery = made[kind]()
    assert gallery.metadata(["a"]) == [{}] and gallery.summary() == {} and gallery.page(0, 5) == (["a"], 1)
    assert gallery.nearest(vectors, 1, where=parse_filter({}))[0][0][0] == "a"
    with pytest.raises(DataError, match="nothing is kept beside the vectors; keep some with"):
        gallery.nearest(vectors, 1, where=parse_filter({"price": 1}))


def test_an_upload_sends_values_and_notices_other_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = [{"price": 1, "tags": ["x", "y"]}, {"price": 2.5}, {}]
    store = stored(tmp_path / "store", ["a", "b", "c"], np.eye(3, SIZE, dtype=np.float32), rows)
    place, sent = f"qdrant:{tmp_path}/server/c", []
    put = QdrantGallery._put

    def counted(self: QdrantGallery, ids: list[str], *rest: Any) -> None:
        sent.extend(ids)
        put(self, ids, *rest)

    monkeypatch.setattr(QdrantGallery, "_put", counted)
    gallery, new = upload(store, place, False)
    assert new == 3 and gallery.metadata(["a", "b", "c"]) == store.columns.rows([0, 1, 2])
    gallery.client.close()
    for changed, again in (
        (rows, []),
        ([rows[0], {"price": 3}, {"new": True}], ["b", "c"]),
        ([rows[0], {"price": 3}, {}], ["c"]),
    ):
        sent.clear()
        store.columns = Columns.of(changed)
        gallery, new = upload(store, place, False)
        assert new == len(again) and sent == again
        assert gallery.metadata(["a", "b", "c"]) == store.columns.rows([0, 1, 2])
        gallery.client.close()
    gallery = QdrantGallery.open(place)  # what it holds is known again
    assert gallery.page(0, 9, parse_filter({"price": {">": 1}})) == (["b"], 1)
    assert gallery.page(0, 9, parse_filter({"new": True})) == ([], 0)
    gallery.client.close()
    store.columns = Columns.of([{"price": "dear"}, {}, {}])
    with pytest.raises(DataError, match='the column "price" holds numbers in the collection c, and words here'):
        upload(store, place, False)


def test_a_column_that_another_client_has_added_is_found(galleries: dict[str, Gallery]) -> None:
    one = collection(["a"], np.eye(1, SIZE, dtype=np.float32), [{"price": 1}])
    other = QdrantGallery(one.client, "c")
    other.add(["b"], np.eye(2, SIZE, dtype=np.float32)[1:], None, [{"shade": "dark"}])
    assert one.page(0, 5, parse_filter({"shade": "dark"})) == (["b"], 1)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_that_are_not_there_are_told_from_those_that_are(galleries: dict[str, Gallery], kind: str) -> None:
    asked = ["r3", "none", "r0", f"r{ROWS}", "", "none"]
    assert galleries[kind].unknown(asked) == ["none", f"r{ROWS}", "", "none"]
    assert galleries[kind].unknown(["r1"]) == galleries[kind].unknown([]) == []
