"""Columns of sources beside vectors: always what the sources say now, and no row is embedded for them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mllm_embed import MLLMEmbedder
from mllm_embed.cli import main
from mllm_embed.data.filters import parse_filter
from mllm_embed.data.sources import open_sources
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.store import extract as extract_module
from mllm_embed.store.extract import Extracted, encode_sources
from mllm_embed.store.kept import changes as changes_module
from mllm_embed.store.plans import loose_shards
from mllm_embed.store.vector_store import VectorStore

ROWS = [
    {"id": "a", "text": "a red shoe", "price": 3, "colour": "red", "sizes": [40, 41], "sold": False},
    {"id": "b", "text": "a blue shoe", "price": 4.5, "colour": "blue", "sizes": None, "sold": True},
    {"id": "c", "text": "a sock", "price": None, "colour": " ", "sizes": []},
    {"id": "d", "text": "a hat", "price": 7, "colour": "red", "sizes": [1], "sold": True},
]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def encode(embedder: MLLMEmbedder, store: Path, *sources: Path, keep: Sequence[str] = (), size: int = 3) -> Extracted:
    listing = open_sources(sources)
    listing.check_keep(keep)
    return encode_sources(embedder, listing, store, shard_rows=size, keep=keep, show_progress=False)


def values(store: Path) -> dict[str, dict[str, Any]]:
    """Return what a store keeps of each living row, after a look at all of it."""
    read = VectorStore.open(store)
    read.verify()
    if read.columns is None:
        return {name: {} for name in read.living}
    return dict(zip(read.living, read.columns.rows(read.positions(read.living)), strict=True))


def anyone(store: Path) -> pyarrow.Table:
    """Return what pyarrow alone reads in a store."""
    files = sorted((store / "shards").glob("*.parquet"))
    return pyarrow.concat_tables([pq.read_table(file) for file in files])


def kept_files(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((store / "shards").glob("*.parquet"))}


@pytest.fixture
def unable(embedder: MLLMEmbedder, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the embedder embed nothing any more."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a row was embedded")

    return lambda: monkeypatch.setattr(embedder, "execute", refuse)


def test_values_lie_beside_the_vectors_for_anyone_to_read(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    encode(embedder, tmp_path / "s", source, keep=["price", "colour", "sizes", "sold"])
    assert values(tmp_path / "s") == {
        "a": {"price": 3.0, "colour": "red", "sizes": [40, 41], "sold": False},
        "b": {"price": 4.5, "colour": "blue", "sold": True},
        "c": {},
        "d": {"price": 7.0, "colour": "red", "sizes": [1], "sold": True},
    }
    store = VectorStore.open(tmp_path / "s")
    assert store.kept == ("price", "colour", "sizes", "sold")
    assert store.columns.mask(parse_filter({"price": {"<": 5}, "sold": True})).tolist() == [False, True, False, False]
    # with nothing of ours: the files of all shards are one table
    table = anyone(tmp_path / "s")
    assert table.column_names == ["id", "price", "colour", "sizes", "sold"]
    assert table["id"].to_pylist() == store.ids and table["price"].to_pylist() == [3.0, 4.5, None, 7.0]
    assert table["sizes"].to_pylist() == [[40, 41], None, None, [1]]


def test_other_values_cost_no_embedding(
    embedder: MLLMEmbedder, tmp_path: Path, unable: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [dict(row) for row in ROWS]
    source, store = write(tmp_path / "rows.jsonl", rows), tmp_path / "s"
    first = encode(embedder, store, source, keep=["price"])
    assert first.revalued.rows == 0
    before, vectors, files = VectorStore.open(store), VectorStore.open(store).rows(0, 4), kept_files(store)
    unable()
    rows[3]["price"] = 8
    write(source, rows)
    done = encode(embedder, store, source)  # what is kept stays so without being named
    assert (done.rows, done.revalued.rows, done.revalued.columns) == (0, 1, ("price",))
    assert values(store)["d"] == {"price": 8.0}
    assert len(files.items() & kept_files(store).items()) == 1, "the other shard's file is as it was"
    assert len(kept_files(store)) == 2, "and the former one is gone"
    assert encode(embedder, store, source).revalued.rows == 0
    assert before.columns.rows([3]) == [{"price": 8.0}], "who opened the store before reads what there is now"
    assert (VectorStore.open(store).rows(0, 4) == vectors).all()
    assert VectorStore.open(store).fingerprint == before.fingerprint


def test_a_new_column_is_filled_for_the_rows_that_are_listed(
    embedder: MLLMEmbedder, tmp_path: Path, unable: Callable[[], None]
) -> None:
    store, source = tmp_path / "s", write(tmp_path / "rows.jsonl", ROWS)
    other = write(tmp_path / "other.jsonl", [{"id": "z", "text": "a tie", "price": 1, "colour": "green"}])
    encode(embedder, store, source, other, keep=["price"])
    unable()
    done = encode(embedder, store, source, keep=["colour"])
    assert (done.revalued.rows, done.revalued.columns) == (3, ("colour",))
    assert values(store)["z"] == {"price": 1.0} and values(store)["a"] == {"price": 3.0, "colour": "red"}
    encode(embedder, store, other)
    assert values(store)["z"] == {"price": 1.0, "colour": "green"}
    assert anyone(store).column_names == ["id", "price", "colour"], "which all shards have, of one type"


def test_what_says_nothing_of_columns_changes_none(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    photos, store = tmp_path / "photos", tmp_path / "s"
    photos.mkdir()
    Image.new("RGB", (32, 32), "red").save(photos / "a.png")
    vector = embedder.encode(["a"], show_progress=False)
    made = VectorStore.create(store, embedder.dimension, provenance=embedder.provenance)
    made.add(["a.png"], vector, metadata=[{"price": 3}])
    encode(embedder, store, photos)
    assert values(store) == {"a.png": {"price": 3}}
    with pytest.raises(ConfigError, match="--keep price: .*photos has no columns; they come from files of rows"):
        encode(embedder, store, photos, keep=["price"])


def test_ids_that_went_and_came_again_have_no_old_values(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    store, source = tmp_path / "s", write(tmp_path / "rows.jsonl", ROWS)
    encode(embedder, store, source, keep=["price", "colour"])
    opened = VectorStore.open(store)
    vector = opened.rows(0, 1)
    opened.remove(["a"])
    opened.add(["a"], vector)
    assert values(store)["a"] == {}
    opened.remove(["a"])
    opened.add(["a"], vector, metadata=[{"colour": "pink"}])
    assert values(store)["a"] == {"colour": "pink"} and values(store)["b"] == {"price": 4.5, "colour": "blue"}
    rows = [dict(row, text="another text") for row in ROWS[3:]]
    assert encode(embedder, store, write(source, rows)).changed == 1
    assert values(store)["d"] == {"price": 7.0, "colour": "red"}
    assert "red" not in anyone(store)["colour"].to_pylist()[:4], "gone rows have no values"


CSV = "id,text,price,code,size,open,count\n1,a shoe,3.50,007,41,true,12345678901234567890\n2,a sock,,42,XL,false,1\n"


def test_cells_of_csv_are_what_all_of_their_column_are(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(CSV)
    encode(embedder, tmp_path / "s", tmp_path / "rows.csv", keep=["price", "code", "size", "open", "count"])
    assert values(tmp_path / "s") == {
        "1": {"price": 3.5, "code": "007", "size": "41", "open": True, "count": "12345678901234567890"},
        "2": {"code": "42", "size": "XL", "open": False, "count": "1"},
    }
    (tmp_path / "rows.csv").write_text(CSV.replace("3.50", "3.50 EUR"))  # then it is a column of words
    encode(embedder, tmp_path / "s", tmp_path / "rows.csv")
    assert values(tmp_path / "s")["1"]["price"] == "3.50 EUR"


def test_tar_shards_and_benchmarks_have_columns(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    picture = BytesIO()
    Image.new("RGB", (32, 32), "red").save(picture, "PNG")
    members = {"x.png": picture.getvalue(), "x.json": b'{"price": 3, "tags": ["new"]}', "x.txt": b"a shoe"}
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    encode(embedder, tmp_path / "t", tmp_path / "shard.tar", keep=["price", "tags", "txt"])
    assert values(tmp_path / "t") == {"x": {"price": 3, "tags": ["new"], "txt": "a shoe"}}
    with pytest.raises(ConfigError, match="has a column 'prize'; did you mean 'price'?"):
        encode(embedder, tmp_path / "t", tmp_path / "shard.tar", keep=["prize"])

    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "x.png").write_bytes(picture.getvalue())
    gallery = [{"id": "x", "image": "x.png", "caption": "a shoe", "price": 4}]
    queries = [{"id": "q", "image": "x.png", "instruction": "blue", "targets": ["x"]}]
    (folder / "benchmark.json").write_text(json.dumps({"name": "b", "gallery": gallery, "queries": queries}))
    encode(embedder, tmp_path / "b", folder, keep=["price", "caption"])
    assert values(tmp_path / "b") == {"x": {"price": 4, "caption": "a shoe"}}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (2**53 + 2, r"rows.jsonl: row 2 holds the int .*, which has more digits than .*\(2\^53\)"),
        ({"low": 1}, "rows.jsonl: row 2 holds the dict"),
        ("cheap", "numbers in .*rows.jsonl: row 1 and words in .*rows.jsonl: row 2"),
        (float("inf"), "row 2 holds the float Infinity, which is no finite number"),
    ],
)
def test_what_no_column_holds_names_its_row(embedder: MLLMEmbedder, tmp_path: Path, value: object, said: str) -> None:
    source = write(tmp_path / "rows.jsonl", [ROWS[0], ROWS[1] | {"price": value}])
    with pytest.raises(DataError, match=said):
        encode(embedder, tmp_path / "s", source, keep=["price"])


def test_whole_numbers_are_kept_to_the_last_digit(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [ROWS[0] | {"price": 2**53}, ROWS[1] | {"price": float("nan")}])
    encode(embedder, tmp_path / "s", source, keep=["price"])
    assert values(tmp_path / "s") == {"a": {"price": 2**53}, "b": {}}


def test_a_column_is_looked_for_before_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    options = ["--output", str(tmp_path / "s"), "--model", str(tmp_path / "no-model")]
    assert main(["encode", str(source), *options, "--keep", "color"]) == 2
    assert "no row of" in (said := capsys.readouterr().err) and "did you mean 'colour'?" in said
    write(source, [ROWS[0], ROWS[1] | {"price": "much"}])
    assert main(["encode", str(source), *options, "--keep", "price"]) == 2
    assert 'the column "price" holds numbers' in capsys.readouterr().err
    assert main(["encode", str(source), *options, "--keep", "id"]) == 2
    assert "kept anyway" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_values_of_another_kind_are_refused_before_the_work(
    embedder: MLLMEmbedder, tmp_path: Path, unable: Callable[[], None]
) -> None:
    store = tmp_path / "s"
    encode(embedder, store, write(tmp_path / "rows.jsonl", ROWS), keep=["price"])
    other = write(tmp_path / "other.jsonl", [{"id": "z", "text": "a tie", "price": "dear"}])
    unable()
    with pytest.raises(DataError, match='s keeps other values of this column .* "price" holds numbers and words'):
        encode(embedder, store, other)
    assert not loose_shards(store)


def test_values_of_hours_ago_are_not_written_over_newer_ones(
    embedder: MLLMEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, source, whole = tmp_path / "s", write(tmp_path / "rows.jsonl", ROWS), embedder.execute
    encode(embedder, store, source, keep=["price"])
    write(source, [*ROWS, {"id": "z", "text": "a tie"}])

    def meanwhile(*given: Any, **options: Any) -> Any:
        monkeypatch.setattr(embedder, "execute", whole)
        write(source, [row | {"price": 9} for row in ROWS])
        encode(embedder, store, source)
        return whole(*given, **options)

    monkeypatch.setattr(embedder, "execute", meanwhile)
    with pytest.raises(DataError, match="rows.jsonl was changed while it was being read: give the same command again"):
        encode(embedder, store, source)
    assert values(store)["a"] == {"price": 9}


def test_what_has_changed_is_said(tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    command = ["encode", str(source), "--output", str(tmp_path / "s"), "--model", str(tiny_llava)]
    assert main([*command, "--keep", "price", "colour"]) == 0
    assert "other values" not in capsys.readouterr().out
    write(source, [row | {"price": 1} for row in ROWS])
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "nothing new to embed" in said and "4 rows have other values of price now" in said


class Killed(BaseException):
    pass


@pytest.mark.parametrize("when", ["shard", "values", "manifest", "end"])
def test_after_a_kill_the_values_are_the_same_to_the_byte(
    embedder: MLLMEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    encode(embedder, tmp_path / "whole", source, keep=["price", "colour"])
    places = {
        "shard": (extract_module, "write_shard", 2),
        "values": (changes_module, "write_kept", 2),
        "manifest": (VectorStore, "_commit", 2),  # the first says what is to be kept
        "end": (extract_module, "_write_unreadable", 1),
    }
    home, name, count = places[when]
    whole, calls = getattr(home, name), []

    def killed(*given: Any, **options: Any) -> Any:
        calls.append(given)
        if len(calls) == count:
            raise Killed
        return whole(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(home, name, killed)
        with pytest.raises(Killed):
            encode(embedder, tmp_path / "s", source, keep=["price", "colour"])
    encode(embedder, tmp_path / "s", source)  # not named again
    encode(embedder, tmp_path / "s", source)  # which clears away what the kill left
    assert values(tmp_path / "s") == values(tmp_path / "whole")
    assert kept_files(tmp_path / "s") == kept_files(tmp_path / "whole")


def test_what_another_call_takes_in_gets_its_values_from_its_own(
    embedder: MLLMEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = write(tmp_path / "rows.jsonl", ROWS), write(tmp_path / "o.jsonl", [{"id": "z", "text": "a tie"}])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(extract_module._Call, "_finish", lambda *_: (_ for _ in ()).throw(Killed))
        encode(embedder, tmp_path / "s", source, keep=["price"])
    assert encode(embedder, tmp_path / "s", other).taken_in == 4
    assert values(tmp_path / "s")["a"] == {}
    assert encode(embedder, tmp_path / "s", source).revalued.rows == 3
    assert values(tmp_path / "s")["a"] == {"price": 3.0}


def test_damage_is_one_sentence(embedder: MLLMEmbedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, source = tmp_path / "s", write(tmp_path / "rows.jsonl", ROWS)
    encode(embedder, store, source, keep=["price"])
    first, second = sorted((store / "shards").glob("*.parquet"))
    content = first.read_bytes()
    first.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    with pytest.raises(DataError, match=f"{first.name} is not what was written: restore it"):
        VectorStore.open(store).columns  # noqa: B018
    second.unlink()
    assert main(["check", str(store)]) == 2
    found = capsys.readouterr()
    assert found.out.count("damaged:") == 2 and f"{second.name} is missing" in found.out
    assert found.err.count("error:") == 1
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["kept"]["files"]["000000"] = "../../../etc/passwd"
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"manifest.json is damaged \(kept\)"):
        VectorStore.open(store)


def test_rows_are_added_with_their_values_or_not_at_all(tmp_path: Path) -> None:
    vectors, store = np.eye(4, dtype=np.float32), VectorStore.create(tmp_path / "s", 4)
    assert store.columns is None and "kept" not in json.loads((tmp_path / "s/manifest.json").read_text())
    store.add(["a", "b"], vectors[:2], metadata=[{"price": 3}, {}])
    assert store.columns.rows([0, 1]) == [{"price": 3}, {}]
    for metadata, said in (
        ([{"price": "much"}], "keeps other values of this column .* numbers and words"),
        ([{"price": {"a": 1}}], 'the column "price" of "c" holds the dict'),
        ([{"price": 1}, {}], "1 ids do not fit the metadata of 2 rows"),
        ([{"id": 1}], "kept anyway"),
    ):
        with pytest.raises(DataError, match=said):
            store.add(["c"], vectors[2:3], metadata=metadata)
        assert list(store.living) == ["a", "b"] and not loose_shards(tmp_path / "s")
    store.add(["c"], vectors[2:3], metadata=[{"price": 0.5, "new": ["x"]}])
    assert values(tmp_path / "s") == {"a": {"price": 3.0}, "b": {}, "c": {"price": 0.5, "new": ["x"]}}
