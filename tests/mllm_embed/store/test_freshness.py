"""A row is known by its id and by what it holds."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from mllm_embed import MLLMEmbedder
from mllm_embed.cli import main
from mllm_embed.data.sources import open_sources
from mllm_embed.errors import DataError
from mllm_embed.index.build import build_index
from mllm_embed.index.faiss_index import Index
from mllm_embed.store import manifest as manifest_module
from mllm_embed.store.extract import encode_sources
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.types import Document
from rows_of_text import Vectors, check_rows, encode, write_rows


def photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def photos(folder: Path, seeds: range) -> Path:
    for at, seed in enumerate(seeds):
        photo(folder / f"{at}.png", seed)
    return folder


def vector_of(store: Path, name: str) -> np.ndarray:
    read = VectorStore.open(store)
    return read.take(np.array([read.position(name)]))[0]


def expected(embedder: MLLMEmbedder, path: Path) -> np.ndarray:
    return embedder.encode([Document(path)], show_progress=False)[0]


def former(store: Path) -> None:
    """Make a store what the first version wrote."""
    path = store / "manifest.json"
    manifest = json.loads(path.read_text())
    for key in ("removed", "checksum"):
        del manifest[key]
    manifest["format"] = "mllm_embed vectors 1"
    manifest["shards"] = [{key: shard[key] for key in ("name", "rows", "sha256")} for shard in manifest["shards"]]
    path.write_text(json.dumps(manifest))
    for record in (store / "shards").glob("*.json"):
        kept = json.loads(record.read_text())
        record.write_text(json.dumps({key: kept[key] for key in ("ids", "sources", "lost", "sha256")}))


def test_two_folders_that_hold_other_pictures_of_one_name(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    one, two = photos(tmp_path / "a", range(4)), photos(tmp_path / "b", range(1, 5))
    encode(embedder, one, tmp_path / "s")
    before = (tmp_path / "s/manifest.json").read_bytes()
    with pytest.raises(DataError) as caught:
        encode(embedder, two, tmp_path / "s")
    assert 'the id "0.png" is in' in str(caught.value) and "another id or another store" in str(caught.value)
    assert str(one / "0.png") in str(caught.value) and str(two / "0.png") in str(caught.value)
    assert (tmp_path / "s/manifest.json").read_bytes() == before and not (tmp_path / "s/plans").exists()


def test_a_picture_that_changed_is_embedded_anew(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    folder = photos(tmp_path / "a", range(5))
    encode(embedder, folder, tmp_path / "s")
    build_index(VectorStore.open(tmp_path / "s"), tmp_path / "i", "flat")
    photo(folder / "2.png", 99)
    photo(folder / "new.png", 98)
    done = encode(embedder, folder, tmp_path / "s")
    assert (done.rows, done.changed, len(done.found.unchanged), len(done.store.living)) == (2, 1, 4, 6)
    for name in ("1.png", "2.png", "new.png"):
        assert np.abs(vector_of(tmp_path / "s", name) - expected(embedder, folder / name)).max() < 1e-5
    answers = Index.open(tmp_path / "i").nearest(expected(embedder, folder / "2.png")[None], 6)[0]
    assert answers[0][0] == "2.png" and len({name for name, _ in answers}) == 6
    again = encode(embedder, folder, tmp_path / "s")
    assert (again.rows, again.changed, len(again.found.unchanged)) == (0, 0, 6)


def test_a_folder_that_moved_costs_nothing(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    folder = photos(tmp_path / "a", range(4))
    encode(embedder, folder, tmp_path / "s")
    folder.rename(tmp_path / "b")
    done = encode(embedder, tmp_path / "b", tmp_path / "s")
    assert (done.rows, len(done.found.unchanged), done.gone, done.moved) == (0, 4, 0, 4)
    photo(tmp_path / "b/1.png", 50)
    with pytest.raises(DataError, match='the id "1.png" is in .* holds something else'):
        encode(embedder, tmp_path / "b", tmp_path / "s")
    assert main(["remove", str(tmp_path / "s"), "1.png"]) == 0  # the cure
    assert encode(embedder, tmp_path / "b", tmp_path / "s").rows == 1


@pytest.mark.parametrize("change", ["words", "picture", "both", "column"])
def test_rows_of_a_table_that_changed(embedder: MLLMEmbedder, tmp_path: Path, change: str) -> None:
    picture = photo(tmp_path / "p.png", 1)
    table, row = tmp_path / "rows.jsonl", {"id": "x", "image": "p.png", "text": "a shoe"}
    table.write_text(json.dumps(row) + '\n{"id": "y", "text": "stays"}\n')
    encode(embedder, table, tmp_path / "s")
    if change in ("words", "both"):
        row["text"] = "a hat"
    if change in ("picture", "both"):
        photo(picture, 2)
    if change == "column":
        row["instruction"] = row.pop("text")
    table.write_text(json.dumps(row) + '\n{"id": "y", "text": "stays"}\n')
    listing = open_sources([table])
    done = encode(embedder, table, tmp_path / "s")
    assert (done.rows, done.changed) == (1, 1)
    wanted = embedder.encode([listing.read(0)[0]], show_progress=False)[0]
    assert np.abs(vector_of(tmp_path / "s", "x") - wanted).max() < 1e-5


def test_one_table_in_another_form_costs_nothing(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    rows = {f"{at}": f"words {at}" for at in range(4)}
    encode(embedder, write_rows(tmp_path / "a.jsonl", rows), tmp_path / "s")
    (tmp_path / "a.csv").write_text("id,text\n" + "".join(f"{name},{text}\n" for name, text in rows.items()))
    assert encode(embedder, tmp_path / "a.csv", tmp_path / "s").rows == 0
    (tmp_path / "a.csv").write_text("id,text\n0,other words\n")
    with pytest.raises(DataError, match=r'"0" is in .*, of .*a\.jsonl, and .*a\.csv: row 1 holds something else'):
        encode(embedder, tmp_path / "a.csv", tmp_path / "s")


def test_what_changed_and_cannot_be_read_keeps_its_vector_and_is_listed(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    folder = photos(tmp_path / "a", range(4))
    encode(embedder, folder, tmp_path / "s")
    before = vector_of(tmp_path / "s", "1.png")
    (folder / "1.png").write_bytes(b"no picture")
    done = encode(embedder, folder, tmp_path / "s")
    assert (done.rows, done.lost) == (0, 1)
    assert np.array_equal(vector_of(tmp_path / "s", "1.png"), before)
    assert json.loads((tmp_path / "s/unreadable.jsonl").read_text())["id"] == "1.png"
    assert encode(embedder, folder, tmp_path / "s").lost == 0  # it is known
    assert json.loads((tmp_path / "s/unreadable.jsonl").read_text())["id"] == "1.png"
    photo(folder / "1.png", 77)
    assert encode(embedder, folder, tmp_path / "s").changed == 1
    assert not (tmp_path / "s/unreadable.jsonl").exists()
    assert np.abs(vector_of(tmp_path / "s", "1.png") - expected(embedder, folder / "1.png")).max() < 1e-5


class Killed(BaseException):
    pass


@pytest.mark.parametrize("when", ["removed rows", "manifest"])
def test_a_kill_in_the_commit_leaves_one_vector_of_what_changed(
    embedder: MLLMEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    words = {f"{at}": f"words {at}" for at in range(4)}
    source, vectors = write_rows(tmp_path / "a.jsonl", words), Vectors(embedder)
    encode(embedder, source, tmp_path / "s")
    VectorStore.open(tmp_path / "s").remove(["3"])
    write_rows(source, words | {"1": "changed"})
    write = manifest_module.write_json

    def killed(path: Path, content: object) -> None:
        if when == "manifest":
            write(path, content)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(manifest_module, "write_json", killed)
        with pytest.raises(Killed):
            encode(embedder, source, tmp_path / "s")
    left = {"0": "words 0", "1": "words 1", "2": "words 2"}
    after = left | {"1": "changed", "3": "words 3"}
    check_rows(tmp_path / "s", after if when == "manifest" else left, vectors)
    VectorStore.open(tmp_path / "s").remove(["0"])  # whose number follows what the killed process left in removed.npy
    encode(embedder, source, tmp_path / "s")
    check_rows(tmp_path / "s", after | {"0": "words 0"}, vectors)


def test_what_changes_while_a_call_is_stopped(
    embedder: MLLMEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {f"{at}": f"words {at}" for at in range(8)}
    source, vectors = write_rows(tmp_path / "a.jsonl", words), Vectors(embedder)
    execute, calls = embedder.execute, []

    def killed(*given, **options):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return execute(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(embedder, "execute", killed)
        with pytest.raises(Killed):
            encode(embedder, source, tmp_path / "s")
    words |= {"1": "changed in a shard that is made", "7": "changed in one that is not"}
    write_rows(source, words)
    assert encode(embedder, source, tmp_path / "s").rows == 3
    check_rows(tmp_path / "s", words, vectors)


def test_rows_that_a_source_has_lost_stay_and_are_counted(
    embedder: MLLMEmbedder, tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_rows(tmp_path / "a.jsonl", {"0": "nought", "1": "one", "2": "two"})
    command = ["encode", str(source), "--output", str(tmp_path / "s"), "--model", str(tiny_llava), "--dtype", "float32"]
    assert main(command) == 0
    write_rows(source, {"0": "nought", "1": "uno"})
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "embedded 1 rows, 1 of which had changed: their old vectors are gone" in said
    assert "1 rows are there already, and have not changed" in said and "lie elsewhere" not in said
    assert "1 rows in the store are in its sources no more; they stay" in said
    check_rows(tmp_path / "s", {"0": "nought", "1": "uno", "2": "two"}, Vectors(embedder))


def test_a_store_of_the_first_format(
    embedder: MLLMEmbedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(tmp_path / "a", range(4))
    encode(embedder, folder, tmp_path / "s")
    build_index(VectorStore.open(tmp_path / "s"), tmp_path / "i", "flat")
    former(tmp_path / "s")
    np.save(tmp_path / "s/removed.npy", np.array([3]))
    read = VectorStore.open(tmp_path / "s")
    assert list(read.living) == ["0.png", "1.png", "2.png"]
    read.verify()
    assert main(["check", str(tmp_path / "s")]) == 0
    assert "without checksums of ids and removed rows" in capsys.readouterr().out
    assert len(Index.open(tmp_path / "i").nearest(read.rows(0, 1), 4)[0]) == 3
    done = encode(embedder, folder, tmp_path / "s")  # what it held is not known: told, and the removed one comes back
    assert (done.rows, len(done.found.unknown), len(done.found.unchanged)) == (1, 3, 0)
    manifest = json.loads((tmp_path / "s/manifest.json").read_text())
    assert manifest["format"] == "mllm_embed vectors 2" and all(shard["record"] for shard in manifest["shards"])
    assert VectorStore.open(tmp_path / "s").living == {"0.png", "1.png", "2.png"} | {"3.png"}
    other = photos(tmp_path / "b", range(7, 9))
    with pytest.raises(DataError, match='"0.png" is in .* holds something else'):  # both files are there to be compared
        encode(embedder, other, tmp_path / "s")
    shutil.copytree(folder, tmp_path / "c")
    assert len(encode(embedder, tmp_path / "c", tmp_path / "s").found.unknown) == 3


def test_what_the_first_version_was_making_stays(
    embedder: MLLMEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {f"{at}": f"words {at}" for at in range(8)}
    source = write_rows(tmp_path / "a.jsonl", words)
    encode(embedder, source, tmp_path / "s")
    former(tmp_path / "s")
    path = tmp_path / "s/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shards": []}))
    (tmp_path / "s/shards/000002.json").unlink()
    (tmp_path / "s/plan.json").write_text(json.dumps({"digest": "0", "first": 0, "shards": 3, "rows": 8, "size": 3}))
    (tmp_path / "s/.claims").touch()
    done = encode(embedder, source, tmp_path / "s")
    assert (done.rows, done.taken_in) == (2, 6)
    check_rows(tmp_path / "s", words, Vectors(embedder))
    assert not (tmp_path / "s/plan.json").exists() and not (tmp_path / "s/.claims").exists()


def test_several_sources_in_one_call(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    one, two = write_rows(tmp_path / "a.jsonl", {"a": "one"}), write_rows(tmp_path / "b.jsonl", {"b": "two"})
    for _ in range(2):
        encode_sources(embedder, open_sources([one, two]), tmp_path / "s", show_progress=False)
    write_rows(two, {"b": "changed"})
    done = encode(embedder, two, tmp_path / "s")
    assert done.changed == 1 and VectorStore.open(tmp_path / "s").origins[1:] == [str(two), str(two)]
    check_rows(tmp_path / "s", {"a": "one", "b": "changed"}, Vectors(embedder))


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_pictures_inside_a_file_that_changed(embedder: MLLMEmbedder, tmp_path: Path, kind: str) -> None:
    source = packed(tmp_path / f"rows.{kind}", dict(enumerate(range(5))))
    encode(embedder, source, tmp_path / "s")
    packed(source, dict(enumerate([0, 1, 77, 3, 4])))
    done = encode(embedder, source, tmp_path / "s")
    assert (done.rows, done.changed, len(done.found.unchanged), done.moved) == (1, 1, 4, 0)
    wanted = expected(embedder, photo(tmp_path / "wanted.png", 77))
    assert np.abs(vector_of(tmp_path / "s", "k2") - wanted).max() < 1e-5
    packed(source, {5: 5} | dict(enumerate([0, 1, 77, 3, 4])))  # a row in front of the others
    done = encode(embedder, source, tmp_path / "s")
    assert (done.rows, done.changed, len(done.found.unchanged), done.moved) == (1, 0, 5, 5)
    source.rename(tmp_path / f"moved.{kind}")
    assert encode(embedder, tmp_path / f"moved.{kind}", tmp_path / "s").rows == 0
    other = packed(tmp_path / f"other.{kind}", {0: 9})
    with pytest.raises(DataError, match='the id "k0" is in .* holds something else'):
        encode(embedder, other, tmp_path / "s")


@pytest.mark.parametrize("now", [[3, 2, 1, 0], [3, 1]], ids=["other order", "fewer"])
@pytest.mark.parametrize("kind", ["tar", "parquet", "jsonl"])
def test_a_file_of_rows_that_changes_while_it_is_read_stops_the_call(
    embedder: MLLMEmbedder, tmp_path: Path, kind: str, now: list[int]
) -> None:
    def write(rows: Iterable[int]) -> Path:
        path = tmp_path / f"rows.{kind}"
        return (
            write_rows(path, {f"k{row}": f"row {row}" for row in rows})
            if kind == "jsonl"
            else packed(path, {row: row for row in rows})
        )

    listing = open_sources([write(range(4))])
    source = write(now)  # where a row of the listing lay lies another
    with pytest.raises(DataError, match="rows.* was changed while it was being read: give the same command again"):
        encode_sources(embedder, listing, tmp_path / "s", show_progress=False)
    encode(embedder, source, tmp_path / "s")
    encode(embedder, source, tmp_path / "wanted")
    for name in (f"k{row}" for row in now):
        assert np.abs(vector_of(tmp_path / "s", name) - vector_of(tmp_path / "wanted", name)).max() < 1e-5


def packed(path: Path, seeds: Mapping[int, int]) -> Path:
    """Write a picture of each seed, by the numbers of its row, into a tar shard or a parquet file."""
    pictures = {f"k{row}": photo(path.parent / "one.png", seed).read_bytes() for row, seed in seeds.items()}
    if path.suffix == ".parquet":
        datasets.Dataset.from_dict({"id": list(pictures), "image": list(pictures.values())}).to_parquet(path)
        return path
    with tarfile.open(path, "w") as tar:
        for name, data in pictures.items():
            member = tarfile.TarInfo(f"{name}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
