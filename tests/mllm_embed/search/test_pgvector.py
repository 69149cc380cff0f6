"""A PostgreSQL table as a gallery, against a real server: it answers as one in memory does, and follows its store."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from mllm_embed.cli import main
from mllm_embed.data.filters import parse_filter
from mllm_embed.errors import ConfigError, DataError, UnreachableError
from mllm_embed.search import pgvector_upload
from mllm_embed.search.pgvector import PgvectorGallery
from mllm_embed.search.pgvector_table import send
from mllm_embed.search.places import upload
from mllm_embed.store.columns import Columns
from mllm_embed.store.gallery import MemoryGallery
from mllm_embed.store.vector_store import VectorStore
from rows_with_values import fits, random_filter, random_rows
from servers.postgres import PostgresServer

WIDTH = 24
MADE_BY = {"base": "toy", "weights": "1", "adapter_settings": None, "processor": None}
_TABLES = count()


def unit_rows(rows: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def place(postgres: PostgresServer) -> str:
    """The place of a table that is not there yet."""
    return postgres.place(f"photos{next(_TABLES)}")


def a_store(folder: Path, vectors: np.ndarray, metadata: list[dict[str, Any]] | None = None) -> VectorStore:
    store = VectorStore.create(folder, WIDTH, provenance=MADE_BY)
    rows = range(len(vectors))
    store.add([f"p{row}" for row in rows], vectors, [f"/photos/{row}.png" for row in rows], metadata)
    return store


@pytest.fixture
def photos(place: str, tmp_path: Path) -> Iterator[PgvectorGallery]:
    """A table of 300 rows; each tenth has the vector of the first."""
    vectors = unit_rows(300)
    vectors[::10] = vectors[0]
    gallery, sent = upload(a_store(tmp_path / "store", vectors), place, False)
    assert (sent, len(gallery), gallery.dimension, gallery.provenance) == (300, 300, WIDTH, MADE_BY)
    yield gallery
    gallery.close()


def assert_same(found: list[list[tuple[str, float]]], wanted: list[list[tuple[str, float]]]) -> None:
    assert [[name for name, _ in answer] for answer in found] == [[name for name, _ in answer] for answer in wanted]
    for answer, right in zip(found, wanted, strict=True):
        assert [score for _, score in answer] == pytest.approx([score for _, score in right], abs=1e-6)


def test_it_answers_as_a_gallery_in_memory(photos: PgvectorGallery) -> None:
    vectors = unit_rows(300)
    vectors[::10] = vectors[0]
    names = [f"p{row}" for row in range(300)]
    right = MemoryGallery(names, vectors, [None] * 300)
    queries = np.concatenate([unit_rows(4, seed=1), vectors[:1]])  # the last finds 30 rows of one score, in row order
    for options in (
        {},
        {"allow": names[5:200:3]},
        {"exclude": [names[:90], [], names[::10], names, names[:11]]},
        {"allow": names[:40], "exclude": [names[:20]] * 5},
        {"allow": names * 20},
    ):
        for k in (1, 40, 1000):
            assert_same(photos.nearest(queries, k, **options), right.nearest(queries, k, **options))
    assert photos.nearest(queries[:0], 3) == []
    assert photos.sources(["p7", "p3"]) == ["/photos/7.png", "/photos/3.png"]
    assert photos.page(10, 3) == (["p10", "p11", "p12"], 300) and photos.page(300, 5) == ([], 300)
    assert photos.summary() == {} and photos.metadata(["p1"]) == [{}]
    for wrong, words in (
        (lambda: photos.nearest(queries, 1, allow=["p1", "p_2"]), "the id \"p_2\" is not in .*did you mean 'p2'"),
        (lambda: photos.nearest(queries, 1, exclude=[["p1\0"]] * 5), 'the id "p1\0" is not in'),
        (lambda: photos.nearest(queries, 1, allow=["\udce9"]), "is not in"),
        (lambda: photos.nearest(queries, 0), "k must be at least 1"),
        (lambda: photos.nearest(queries[:, 1:], 1), "do not fit vectors of 24 numbers"),
        (lambda: photos.nearest(queries, 1, allow=[]), "allow names no id"),
        (lambda: photos.sources(["p1", "q"]), 'the id "q" is not in'),
        (lambda: photos.nearest(queries, 1, where=parse_filter({"price": 1})), 'no column "price"'),
    ):
        with pytest.raises(DataError, match=words):
            wrong()


def test_ids_that_are_not_there_are_told_from_those_that_are(photos: PgvectorGallery) -> None:
    assert photos.unknown(["p2", "q", "p1\0", "p1", "q"]) == ["q", "p1\0", "q"]
    assert photos.unknown(["p1"]) == photos.unknown([]) == []


def test_a_filter_means_what_it_means_in_memory(place: str, tmp_path: Path) -> None:
    chance = random.Random(7)
    rows = random_rows(chance, 200)
    columns, vectors = Columns.of(rows), unit_rows(200)
    gallery, _ = upload(a_store(tmp_path / "store", vectors, rows), place, False)
    names, query = [f"p{row}" for row in range(200)], unit_rows(1, seed=1)
    assert gallery.metadata(names) == columns.rows(range(200))
    assert gallery.summary() == columns.summary() and list(gallery.summary()) == sorted(columns.summary())
    assert list(gallery.summary()["tags"].values or ()) == list(columns.summary()["tags"].values or ())
    order = [name for name, _ in MemoryGallery(names, vectors, [None] * 200).nearest(query, 200)[0]]
    found = 0
    for _ in range(150):
        asked = random_filter(chance, rows)
        where = parse_filter(asked)
        wanted = {names[row] for row in range(200) if fits(rows[row], asked)}
        assert wanted == {names[row] for row in np.flatnonzero(columns.mask(where))}
        answers = [name for name, _ in gallery.nearest(query, 200, where=where)[0]]
        assert answers == [name for name in order if name in wanted], asked
        assert gallery.page(0, 500, where) == ([name for name in names if name in wanted], len(wanted))
        found += len(wanted)
    assert found > 1000
    allowed = gallery.nearest(query, 9, where=parse_filter({"whole": 1}), allow=names[:100], exclude=[names[:50]])[0]
    assert {name for name, _ in allowed} == {names[row] for row in range(50, 100) if rows[row].get("whole") == 1}
    with pytest.raises(DataError, match='no column "prize" to filter by; did you mean .price.'):
        gallery.nearest(query, 1, where=parse_filter({"prize": 1}))
    with pytest.raises(DataError, match='"price" holds numbers, and the filter compares it with'):
        gallery.page(0, 1, parse_filter({"price": "1"}))
    gallery.close()


def test_names_and_values_are_never_part_of_a_statement(place: str, tmp_path: Path) -> None:
    odd = """'); DROP TABLE x; --"$.{}%s%(k)s\\"""
    gallery, _ = upload(a_store(tmp_path / "store", unit_rows(3), [{odd: odd}, {odd: odd + "x"}, {}]), place, False)
    query = unit_rows(1)
    assert [name for name, _ in gallery.nearest(query, 3, where=parse_filter({odd: odd}))[0]] == ["p0"]
    assert [name for name, _ in gallery.nearest(query, 3, where=parse_filter({odd: {">": odd}}))[0]] == ["p1"]
    gallery.add([odd], query, [odd], [{odd: [odd, "y"]}])
    assert gallery.sources([odd]) == [odd] and gallery.metadata([odd]) == [{odd: [odd, "y"]}]
    gallery.remove([odd])
    with pytest.raises(
        DataError, match='"n" has a zero byte in its column "name", which PostgreSQL does not keep: take it out'
    ):
        gallery.add(["n"], query, None, [{"name": "a\0b"}])
    for asked in ({odd: "a\0b"}, {"a\0b": 1}, {odd: {"<": "\0"}}):
        with pytest.raises(DataError, match="cannot take a value as it is") as raised:
            gallery.nearest(query, 3, where=parse_filter(asked))
        assert str(gallery.address) not in str(raised.value)  # which is not for whoever filters
    assert len(gallery) == 3
    gallery.close()


def test_rows_come_and_go(photos: PgvectorGallery) -> None:
    new = unit_rows(2, seed=5) * 3
    photos.add(["n1", "n2"], new, metadata=[{"price": 4, "tags": ["a", "b"]}, {"price": None}])
    assert photos.nearest(new[:1], 1)[0] == [("n1", pytest.approx(1, abs=1e-6))]  # a cosine, whatever the lengths
    assert photos.page(298, 9)[0] == ["p298", "p299", "n1", "n2"]
    assert photos.metadata(["n2", "n1"]) == [{}, {"price": 4, "tags": ["a", "b"]}]
    assert photos.sources(["n1"]) == [None]
    assert [name for name, _ in photos.nearest(new, 5, where=parse_filter({"tags": "b"}))[1]] == ["n1"]
    for ids, vectors, metadata, words in (
        (["n3", "n1"], new, None, 'the id "n1" is in .* already'),
        (["n3", "n3"], new, None, '"n3" is given twice'),
        (["n3"], new, None, "1 ids do not fit vectors of shape"),
        (["n3"], new[:1] * np.nan, None, "NaN"),
        (["n3"], new[:1], [{"price": "dear"}], '"price" holds numbers in .*, and would hold words'),
        (["n3"], new[:1], [{"price": {}}], "price"),
    ):
        with pytest.raises(DataError, match=words):
            photos.add(ids, vectors, metadata=metadata)
    with pytest.raises(DataError, match='the id "x" is not in'):
        photos.remove(["n1", "x"])
    assert len(photos) == 302
    photos.remove(["n1", "n2", "n1"])
    assert len(photos) == 300
    photos.remove([f"p{row}" for row in range(300)])
    assert (len(photos), photos.nearest(new, 3), photos.page(0, 3)) == (0, [[], []], ([], 0))
    photos.add(["n"], new[:1], metadata=[{"price": "dear"}])  # whose column held numbers when it was last looked at
    assert photos.page(0, 3, parse_filter({"price": "dear"})) == (["n"], 1)


def test_an_upload_that_was_killed_goes_on(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store(tmp_path / "store", unit_rows(95))
    monkeypatch.setattr(pgvector_upload, "_BATCH", 10)
    calls = count()

    def killed(connection: Any, *rest: Any, **options: Any) -> None:
        send(connection, *rest, **options)
        if next(calls) == 4:  # these ten rows were sent, and not committed
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(pgvector_upload, "send", killed)
    child = multiprocessing.get_context("fork").Process(target=upload, args=(store, place, False))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    monkeypatch.setattr(pgvector_upload, "send", send)
    assert len(PgvectorGallery.open(place)) == 40
    gallery, sent = upload(store, place, False)
    assert (sent, len(gallery), gallery.page(0, 100)[0]) == (55, 95, store.ids)
    gallery.close()


def test_uploads_at_the_same_time_make_one_table(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = [a_store(tmp_path / f"store{number}", unit_rows(100)) for number in range(2)]
    monkeypatch.setattr(pgvector_upload, "_BATCH", 10)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda number: upload(stores[number % 2], place, False)[0], range(4)))
    assert {len(gallery) for gallery in found} == {100} and found[0].page(0, 100)[0] == stores[0].ids
    for gallery in found:
        gallery.close()


def test_an_upload_whose_connection_breaks_goes_on(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store(tmp_path / "store", unit_rows(30))
    monkeypatch.setattr(pgvector_upload, "_BATCH", 10)
    calls = count()

    def ended(connection: Any, *rest: Any, **options: Any) -> None:
        send(connection, *rest, **options)
        if next(calls) == 1:
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(pgvector_upload, "send", ended)
    with pytest.raises(UnreachableError, match="terminating connection due to administrator command"):
        upload(store, place, False)
    gallery, sent = upload(store, place, False)
    assert (sent, gallery.page(0, 100)[0]) == (20, store.ids)
    gallery.close()


def test_an_upload_follows_the_store(place: str, tmp_path: Path) -> None:
    rows = [{"price": row} for row in range(60)]
    store = a_store(tmp_path / "store", unit_rows(60), rows)
    gallery, _ = upload(store, place, False)
    gallery.add(["by hand"], unit_rows(1, seed=3))
    assert upload(store, place, False)[1] == 0
    store.remove(["p3", "p4", "p5"])
    store.add(["p4"], unit_rows(1, seed=9))  # another vector, as the row 60
    rows[7] = {"price": 700, "colour": "red"}
    store.columns = Columns.of([*rows, {"price": 4}])
    assert upload(store, place, False)[1] == 2
    assert len(gallery) == 59
    right = MemoryGallery(store.ids[:3] + store.ids[6:], store.take(np.r_[0:3, 6:61]), [None] * 58)
    gallery.remove(["by hand"])
    queries = np.concatenate([unit_rows(1, seed=9), unit_rows(2, seed=3)])
    assert_same(gallery.nearest(queries, 99), right.nearest(queries, 99))
    assert gallery.metadata(["p7", "p4"]) == [{"price": 700, "colour": "red"}, {"price": 4}]
    assert gallery.page(0, 99)[0] == right.ids
    other = VectorStore.create(tmp_path / "other", WIDTH, provenance=MADE_BY | {"base": "another"})
    other.add(["a"], unit_rows(1))
    with pytest.raises(ConfigError, match="holds vectors that were made otherwise .base"):
        upload(other, place, False)
    short = VectorStore.create(tmp_path / "short", 8, provenance=MADE_BY)
    short.add(["a"], np.eye(8, dtype=np.float32)[:1])
    with pytest.raises(ConfigError, match="keeps vectors of 24 numbers, .*short of 8"):
        upload(short, place, False)
    store.columns = Columns.of([{"price": "dear"}] * 61)
    with pytest.raises(DataError, match='"price" holds numbers in'):
        upload(store, place, False)
    gallery.close()


def test_with_an_index_as_many_come_as_may(place: str, tmp_path: Path, postgres: PostgresServer) -> None:
    vectors, rows = unit_rows(2000), [{"tenth": row % 10 == 0, "shop": f"s{row}"} for row in range(2000)]
    gallery, _ = upload(a_store(tmp_path / "store", vectors, rows), place, False)
    right = MemoryGallery([f"p{row}" for row in range(2000)], vectors, [None] * 2000, metadata=rows)
    queries = unit_rows(20, seed=1)
    with psycopg.connect(place.partition("#")[0], autocommit=True) as connection:
        # one that somebody else has made, by which no search would be exact
        table = gallery.address.table
        connection.execute(f"CREATE INDEX ON {table} USING hnsw (vector vector_ip_ops) WITH (m=2, ef_construction=4)")
    assert_same(gallery.nearest(queries, 10), right.nearest(queries, 10))
    gallery.make_index()
    gallery.make_index()
    assert gallery.indexed and PgvectorGallery.open(place).indexed
    found, wanted = gallery.nearest(queries, 10), right.nearest(queries, 10)
    met = [dict(answer).keys() & dict(best).keys() for answer, best in zip(found, wanted, strict=True)]
    assert sum(map(len, met)) > 190
    for answer, query in zip(found, queries, strict=True):  # scores are exact all the same
        scores = [float(vectors[int(name[1:])] @ query) for name, _ in answer]
        assert [score for _, score in answer] == pytest.approx(scores, abs=1e-6) and scores == sorted(scores)[::-1]
    for where in ({"tenth": True}, {"shop": ["s3", "s1999"]}, {"shop": "s77"}):
        assert_same(
            gallery.nearest(queries[:2], 300, where=parse_filter(where)),
            right.nearest(queries[:2], 300, where=parse_filter(where)),
        )
    assert_same(gallery.nearest(queries[:1], 9, allow=["p1", "p9"]), right.nearest(queries[:1], 9, allow=["p1", "p9"]))
    gallery.add(["new"], queries[:1])
    assert gallery.nearest(queries[:1], 1)[0][0][0] == "new"
    gallery.close()
    with pytest.raises(ConfigError, match="takes no --index: such a server makes its own"):
        upload(VectorStore.open(tmp_path / "store"), f"qdrant:{tmp_path}/q/photos", False, index=True)
    assert not (tmp_path / "q").exists()
    wide = VectorStore.create(tmp_path / "wide", 4001, provenance=MADE_BY)
    wide.add(["a"], np.eye(4001, dtype=np.float32)[:1])
    place = postgres.place("wide")
    with pytest.raises(ConfigError, match="of 4,001 numbers, and pgvector indexes no more than 4,000"):
        upload(wide, place, False, index=True)
    assert PgvectorGallery.open(place).nearest(np.eye(4001, dtype=np.float32)[:1], 3) == [[("a", 1.0)]]


def test_what_others_do_to_the_table(photos: PgvectorGallery, place: str, postgres: PostgresServer) -> None:
    table = photos.address.table
    with psycopg.connect(place.partition("#")[0], autocommit=True) as owner:
        owner.execute("CREATE ROLE reader LOGIN PASSWORD 'hush'")
        owner.execute(f"GRANT SELECT ON {table} TO reader")
        nested = '{"size": {"cm": 4}, "price": null, "tags": [1, {"a": 2}], "shop": []}'
        owner.execute(f"UPDATE {table} SET metadata = '{nested}' WHERE id = 'p1'")
        owner.execute(f"ALTER TABLE {table} RENAME TO renamed")
    reader = PgvectorGallery.open(postgres.place("renamed", "reader:hush"))
    assert list(reader.summary()) == ["tags"] and len(reader) == 300
    assert [name for name, _ in reader.nearest(unit_rows(1), 5, where=parse_filter({"tags": 1}))[0]] == ["p1"]
    with pytest.raises(DataError, match='no column "size" to filter by'):
        reader.page(0, 5, parse_filter({"size": 4}))
    for refused in (lambda: reader.remove(["p1"]), lambda: reader.add(["q"], unit_rows(1))):
        with pytest.raises(DataError, match="permission denied for table renamed"):
            refused()
    reader.add([], np.empty((0, WIDTH), np.float32))
    with pytest.raises(DataError, match="cannot be reached or used .relation .* does not exist"):
        photos.nearest(unit_rows(1), 1)


def test_threads_share_it(photos: PgvectorGallery) -> None:
    queries = unit_rows(40, seed=2)
    right = [photos.nearest(queries[at : at + 1], 5)[0] for at in range(40)]
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda at: photos.nearest(queries[at % 40 : at % 40 + 1], 5)[0], range(200))
        assert list(found) == right * 5


def test_a_server_that_is_gone_is_a_sentence_and_comes_back(photos: PgvectorGallery, postgres: PostgresServer) -> None:
    query = unit_rows(1)
    before = photos.nearest(query, 3)
    postgres.stop()
    try:
        for _ in range(2):
            with pytest.raises(UnreachableError, match="cannot be reached or used") as raised:
                photos.nearest(query, 3)
            assert str(raised.value).count("\n") == 0 and "secret" not in str(raised.value)
    finally:
        postgres.start()
    assert photos.nearest(query, 3) == before


def test_what_cannot_be_is_one_sentence(postgres: PostgresServer, tmp_path: Path, capsys: Any) -> None:
    store = a_store(tmp_path / "store", unit_rows(3))
    owner = psycopg.connect(postgres.place("x").partition("#")[0], autocommit=True)
    for statement in (
        "CREATE ROLE guest LOGIN PASSWORD 'hush'",
        "CREATE DATABASE bare",
        "CREATE TABLE others (id text)",
        "CREATE EXTENSION IF NOT EXISTS vector",
    ):
        owner.execute(statement)
    upload(store, postgres.place("mine"), False)[0].close()
    refused = [
        (postgres.place("mine", "owner:hush"), "password authentication failed"),
        (postgres.place("mine", database="nowhere"), 'database "nowhere" does not exist'),
        (postgres.place("others"), "was not made by `mllm-embed upload`"),
        (postgres.place("mine", "guest:hush"), "permission denied for table mine"),
        (postgres.place("guests", "guest:hush"), "permission denied for schema public"),
        (postgres.place("mine", "guest:hush", "bare"), "has no pgvector (permission denied"),
        (postgres.place("a.b"), 'schema "a" does not exist'),
        (postgres.place("n" * 64), "longer than the 63 bytes"),
        ("postgresql://owner:secret@/nowhere", "names no table"),
        ("postgresql://owner:se/secret@host/db#photos", "cannot be read"),
        ("postgresql://owner:12/secret@host/db#photos", "cannot be read"),
        ("postgresql://owner:se%secret@host/db#photos", "cannot be read"),
        ("postgresql://owner:s#secret@host/db", "names no table"),
        ("postgresql://owner:secret@127.0.0.1:9/db#photos", "cannot be reached or used"),
        (postgres.place("mine", database="\udce9"), "cannot be read"),
        (postgres.place("\udce9"), "cannot be read"),
        ("postgresql://owner:secret@[::1]:9,127.0.0.1:9/d#photos", "//::1,127.0.0.1/d#photos cannot be reached"),
        ("mysql://owner:secret@host/db#photos", "names no Qdrant collection or PostgreSQL table"),
    ]
    for place, words in refused:
        assert main(["upload", str(tmp_path / "store"), place]) == 2
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1, told
        assert "secret" not in told and "hush" not in told, told
    with pytest.raises(DataError, match="there is no table postgresql:///postgres#nothing: make it with `mllm-embed"):
        PgvectorGallery.open(postgres.place("nothing"))
    with pytest.raises(DataError, match="has no pgvector: install"):
        PgvectorGallery.open(postgres.place("mine", database="bare"))
    owner.execute("CREATE SCHEMA shop")
    for name in ("shop.photos", 'Photos"2', "naïve-ü"):
        gallery, sent = upload(store, postgres.place(name), False)
        assert sent == 3 and f"#{name}" in str(gallery.address) and len(PgvectorGallery.open(postgres.place(name))) == 3
    owner.close()
