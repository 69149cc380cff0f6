"""One Searcher over everything that holds vectors: memory, a store, an index, a collection or table on a server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import psycopg
import pytest
from PIL import Image

from mllm_embed import MLLMEmbedder, PromptSet, Query, Searcher
from mllm_embed.cli import main
from mllm_embed.data.sources import open_sources
from mllm_embed.errors import ConfigError, DataError, ImageError
from mllm_embed.search import places
from mllm_embed.search import qdrant as qdrant_module
from mllm_embed.search.hits_table import hits_table
from mllm_embed.search.qdrant import QdrantGallery, upload
from mllm_embed.search.searcher import Hit
from mllm_embed.store.extract import encode_sources
from mllm_embed.store.vector_store import VectorStore
from servers.postgres import PostgresServer

PLACES = ["photos", "store", "store.index", "qdrant", "postgres"]
SERVERS = {"qdrant": "qdrant:server/photos", "postgres": "postgresql:///postgres#stored"}


@pytest.fixture(scope="module")
def embedder(tiny_llava: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32")


@pytest.fixture
def home(
    embedder: MLLMEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    """Photos, and the same gallery in every form; in PostgreSQL for the tests that name it."""
    pytest.importorskip("qdrant_client", reason="needs pip install mllm_embed[qdrant]")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{number:02d}.png")
    encode_sources(embedder, open_sources(["photos"]), "store", show_progress=False)
    main(["index", "store", "--kind", "hnsw"])
    upload(VectorStore.open("store"), "qdrant:server/photos", False)[0].client.close()
    if "postgres" in request.node.name:
        server: PostgresServer = request.getfixturevalue("postgres")
        for name, value in (("PGHOST", str(server.folder)), ("PGUSER", "owner"), ("PGPASSWORD", "secret")):
            monkeypatch.setenv(name, value)
        with psycopg.connect("dbname=postgres") as connection:
            connection.execute("DROP TABLE IF EXISTS stored")
        places.upload(VectorStore.open("store"), SERVERS["postgres"], False)[0].close()
    return tmp_path


def place(name: str) -> str:
    return SERVERS.get(name, name)


@pytest.mark.parametrize("name", PLACES)
def test_every_place_answers_alike(embedder: MLLMEmbedder, home: Path, name: str) -> None:
    right = Searcher.from_folder(embedder, "photos", show_progress=False)
    searcher = Searcher.open(embedder, place(name), show_progress=False)
    assert len(searcher.gallery) == 12
    query = Query(home / "photos/03.png", "make it blue")
    for options in (
        {},
        {"exclude": ["04.png"]},
        {"allow": ["01.png", "02.png", "05.png"]},
        {"exclude_reference": True},
    ):
        hits, wanted = searcher.search(query, 4, **options), right.search(query, 4, **options)
        assert [hit.id for hit in hits] == [hit.id for hit in wanted]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted], abs=1e-5)
        assert [Path(hit.image).resolve() for hit in hits] == [(home / "photos" / hit.id).resolve() for hit in hits]
    many = searcher.search_many([query, Query(instruction="a red shoe")], 3)
    assert [hit.id for hit in many[0]] == [hit.id for hit in right.search(query, 3)]
    with pytest.raises(DataError, match='the id "x" is not in'):
        searcher.search(query, exclude=["x"])
    with pytest.raises(DataError, match="allow names no id"):
        searcher.search(query, allow=[])


@pytest.mark.parametrize("name", PLACES)
def test_pictures_come_and_go(embedder: MLLMEmbedder, home: Path, name: str) -> None:
    searcher = Searcher.open(embedder, place(name), show_progress=False)
    Image.new("RGB", (24, 32), (200, 0, 0)).save("new.png")
    searcher.add({"new": "new.png"})
    hit = searcher.search(Query(home / "new.png"), 1)[0]
    assert (hit.id, len(searcher.gallery)) == ("new", 13) and Path(hit.image).resolve() == home / "new.png"
    with pytest.raises(DataError, match='"new" is'):
        searcher.add({"new": "new.png"})
    Path("broken.png").write_text("x")
    with pytest.raises(ImageError, match="broken.png is not a"):
        searcher.add({"broken": "broken.png"})
    searcher.remove(["new"])
    assert searcher.search(Query(home / "new.png"), 1)[0].id != "new" and len(searcher.gallery) == 12
    with pytest.raises(DataError, match='the id "new" is not in'):
        searcher.remove(["new"])


def test_copies_of_the_reference_are_left_out(embedder: MLLMEmbedder, home: Path) -> None:
    for number in range(15):
        shutil.copy("photos/03.png", f"photos/copy{number}.png")
    encode_sources(embedder, open_sources(["photos"]), "store", show_progress=False)
    hits = Searcher.open(embedder, "store").search(Query(home / "photos/03.png"), 3, exclude_reference=True)
    assert len(hits) == 3 and not [hit.id for hit in hits if hit.id.startswith(("copy", "03"))]


@pytest.mark.parametrize("name", PLACES[1:])
def test_another_model_or_prompt_is_refused(embedder: MLLMEmbedder, home: Path, name: str) -> None:
    other = embedder.with_prompts(PromptSet.from_dict(embedder.prompts.to_dict() | {"text": "{text}: say it"}))
    with pytest.raises(ConfigError, match="the gallery holds vectors that were made otherwise .settings.prompts.text"):
        Searcher.open(other, place(name))


def test_an_upload_goes_on_and_follows_the_store(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = VectorStore.open("store")
    monkeypatch.setattr(qdrant_module, "_BATCH", 5)
    put, sent = QdrantGallery._put, []

    def counted(self: QdrantGallery, ids: list[str], *rest: object) -> None:
        if len(sent) == 5:
            raise KeyboardInterrupt
        put(self, ids, *rest)
        sent.extend(ids)

    monkeypatch.setattr(QdrantGallery, "_put", counted)
    with pytest.raises(KeyboardInterrupt):
        upload(store, "qdrant:other/photos", False)
    monkeypatch.setattr(QdrantGallery, "_put", lambda self, ids, *rest: (put(self, ids, *rest), sent.extend(ids)))
    gallery, count = upload(store, "qdrant:other/photos", False)
    assert count == 7 and sent == store.ids and len(gallery) == 12
    gallery.client.close()
    store.remove(["03.png", "04.png"])
    store.add(["03.png"], store.take(np.array([0])))
    gallery, count = upload(store, "qdrant:other/photos", False)
    assert count == 1 and len(gallery) == 11
    # the vector that the id has now, of which the collection had another
    assert {name for name, score in gallery.nearest(store.take(np.array([0])), 2)[0] if score > 0.999} == {
        store.ids[0],
        "03.png",
    }


def test_collections_that_are_refused(home: Path, embedder: MLLMEmbedder) -> None:
    with pytest.raises(ConfigError, match="'qdrant:photos' names no Qdrant collection; give qdrant:http"):
        QdrantGallery.open("qdrant:photos")
    with pytest.raises(DataError, match="there is no Qdrant collection 'nothing': make it with `mllm-embed upload`"):
        QdrantGallery.open("qdrant:elsewhere/nothing")
    assert not Path("elsewhere").exists()  # the client makes its storage wherever it is asked to look
    with pytest.raises(DataError, match="no Qdrant collection 'nothing'.*photos holds no Qdrant storage"):
        QdrantGallery.open("qdrant:photos/nothing")
    with pytest.raises(DataError, match="cannot be reached or used"):
        QdrantGallery.open("qdrant:http://127.0.0.1:9/photos")
    provenance = VectorStore.open("store").provenance
    for name, store in (
        ("one", VectorStore.create("one", 64, provenance=provenance | {"adapter": "other"})),
        ("two", VectorStore.create("two", 8, provenance=provenance)),
    ):
        store.add(["a"], np.eye(store.dimension, dtype=np.float32)[:1])
        with pytest.raises(ConfigError, match="adapter: null, now|keeps vectors of 64 numbers, two of 8"):
            upload(VectorStore.open(name), "qdrant:server/photos", False)


def test_the_command_line(home: Path, tiny_llava: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("few.txt").write_text("01.png\n02.png\n\n")
    options = ["--model", str(tiny_llava), "--dtype", "float32", "--output", "sheet.png"]
    shown = ["--image", "photos/03.png", "--instruction", "make it blue"]
    tables = set()
    for name in PLACES[:-1]:
        assert main(["search", "--gallery", place(name), *shown, "--exclude", "few.txt", *options]) == 0
        tables.add(tuple(line.split()[2] for line in capsys.readouterr().out.splitlines()[1:6]))
    assert len(tables) == 1 and not set(tables.pop()) & {"01.png", "02.png"}
    assert main(["search", "--gallery", "store", *shown, "--allow", "few.txt", *options]) == 0
    assert {line.split()[2] for line in capsys.readouterr().out.splitlines()[1:3]} == {"01.png", "02.png"}
    assert main(["upload", "store", "qdrant:third/photos"]) == 0
    assert "sent 12 rows; qdrant:third/photos has 12" in capsys.readouterr().out
    assert main(["remove", "store", "05.png", "--ids", "few.txt"]) == 0
    assert "removed 3 rows; store has 9" in capsys.readouterr().out
    shutil.rmtree("photos")  # the answers are right all the same
    shutil.copytree(home / "store", home / "moved")
    Image.new("RGB", (9, 9)).save("reference.png")
    assert main(["search", "--gallery", "moved", "--image", "reference.png", *options]) == 0
    assert "00.png" in capsys.readouterr().out and Path("sheet.png").is_file()
    for wrong, words in (
        (["remove", "store"], "give ids to remove"),
        (["remove", "store", "05.png"], 'the id "05.png" is not in'),
        (["remove", "server", "05.png"], "server is no store, index, Qdrant collection or PostgreSQL table"),
        (["upload", "nowhere", "qdrant:third/photos"], "nowhere is no vector store"),
        (["upload", "store", "third"], "'third' names no Qdrant collection"),
        (["search", "--gallery", "store", *shown, "--allow", "none.txt", *options], "photos/03.png does not exist"),
        (["search", "--gallery", "store", "--image", "reference.png", "--allow", "none.txt", *options], "none.txt"),
    ):
        assert main(wrong) == 2
        assert words in capsys.readouterr().err


def test_the_command_line_of_postgres(
    home: Path, tiny_llava: Path, capsys: pytest.CaptureFixture[str], postgres: PostgresServer
) -> None:
    place = postgres.place("stored")  # with a password
    shown = "postgresql:///postgres#stored"
    asked = ["--model", str(tiny_llava), "--dtype", "float32", "--output", "sheet.png", "--image", "photos/03.png"]
    answers = []
    for gallery in ("store", place):
        assert main(["search", "--gallery", gallery, *asked]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] and "03.png" in answers[0]
    assert main(["remove", place, "05.png"]) == 0
    assert capsys.readouterr().out == f"removed 1 rows; {shown} has 11\n"
    assert main(["upload", "store", place]) == 0
    assert capsys.readouterr().out == f"sent 1 rows; {shown} has 12\n"
    Path("all.txt").write_text("\n".join(VectorStore.open("store").ids))
    for wrong in (["--exclude", "all.txt"], ["--allow", "none.txt"]):
        assert main(["search", "--gallery", place, *asked, *wrong]) == 2
        told = capsys.readouterr()
        assert "secret" not in told.err and told.err.count("\n") == 1


def test_a_filter_of_the_command_line(
    home: Path, embedder: MLLMEmbedder, tiny_llava: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": f"{row:02d}.png", "image": f"photos/{row:02d}.png", "price": row} for row in range(12)]
    rows = [row | {"colours": ["red", "naïve"][: row["price"] % 3]} for row in rows]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    encode_sources(embedder, open_sources(["rows.jsonl"]), "kept", keep=["price", "colours"], show_progress=False)
    main(["index", "kept", "--kind", "hnsw"])
    upload(VectorStore.open("kept"), "qdrant:server/kept", False)[0].client.close()
    queries = [{"id": "q", "image": "photos/00.png", "instruction": "x", "targets": ["01.png"]}]
    Path("benchmark.json").write_text(json.dumps({"name": "n", "gallery": rows, "queries": queries}))
    options = ["--model", str(tiny_llava), "--dtype", "float32", "--output", "sheet.png", "--instruction", "a hat"]
    capsys.readouterr()
    for name in ("kept", "kept.index", "qdrant:server/kept", str(home)):
        asked = '{"price": {">": 2, "<=": 9}, "colours": {"!=": null}}'
        assert main(["search", "--gallery", name, *options, "-k", "12", "--filter", asked]) == 0
        lines = capsys.readouterr().out.splitlines()
        found = {line.split()[2]: line.split()[4:] for line in lines[1 : lines.index("")]}
        assert lines[0].split() == ["rank", "score", "id", "file", "metadata"]
        assert sorted(found) == ["04.png", "05.png", "07.png", "08.png"]
        assert json.loads(" ".join(found["05.png"])) == {"price": 5, "colours": ["red", "naïve"]}
    Path("few.txt").write_text("04.png\n")
    only = ["search", "--gallery", "kept", *options, "--filter", '{"price": 4}', "--exclude", "few.txt"]
    assert main(only) == 2
    assert "no row of kept that fits --filter may answer by --allow and --exclude" in capsys.readouterr().err


def test_who_cannot_pay_for_checksums_leaves_them_out(home: Path, embedder: MLLMEmbedder) -> None:
    vectors = home / "store/shards/000000.npy"
    content = bytearray(vectors.read_bytes())
    content[-1] ^= 1
    vectors.write_bytes(content)
    for name in ("store", "store.index"):
        with pytest.raises(DataError, match="not what was written"):
            Searcher.open(embedder, name).search(Query(instruction="a hat"))
        assert len(Searcher.open(embedder, name, verify=False).search(Query(instruction="a hat"))) == 5


def test_the_bytes_of_a_picture_are_not_printed() -> None:
    table = hits_table([Hit("a.png", 0.5, Path("photos/a.png")), Hit("b", 0.25, b"\x89PNG")])
    assert table.splitlines()[1:] == [
        "   1   0.500  a.png  photos/a.png",
        "   2   0.250  b      in a file of rows",
    ]
    table = hits_table([Hit("a.png", 0.5, "a.png", {"note": "x" * 200}), Hit("b", 0.25, None)])
    assert table.splitlines()[1].endswith("xxx...") and len(table.splitlines()[1]) < 140
    assert table.splitlines()[2] == "   2   0.250  b      None"
