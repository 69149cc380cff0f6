"""What a folder holds: pictures by name and content, and in one sentence what is passed over."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mllm_embed
from mllm_embed import MLLMEmbedder
from mllm_embed.cli import main
from mllm_embed.data.digest import item_digest
from mllm_embed.data.sources import gallery_of, open_sources
from mllm_embed.errors import ConfigError, DataError, ImageError
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.types import Document


def picture(value: int, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(buffer, format)
    return buffer.getvalue()


P = picture(7)


def fill(folder: Path, files: dict[str | bytes, bytes]) -> Path:
    for name, content in files.items():
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    return folder


def test_pictures_by_content_and_what_else_there_is(tmp_path: Path) -> None:
    files = {
        "a": P, "b.tif": picture(1, "TIFF"), "c.jfif": picture(1, "JPEG"), "d.PNG": P, "e.jpeg.bak": P, ".h.png": P,
        "bad.png": b"no", "x.txt": P, "y.doc": b"x", "z": b"x", "rows.jsonl": b"{}", "more/.DS_Store": b"",
    }  # fmt: skip
    folder = fill(tmp_path / "f", files)
    os.symlink(tmp_path, folder / "linked")
    os.symlink("nowhere", folder / "broken.png")
    os.symlink(folder / "a", folder / "inside.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    listing = open_sources([folder])
    rows = [".h.png", "a", "b.tif", "bad.png", "broken.png", "c.jfif", "d.PNG", "e.jpeg.bak", "inside.png", "pipe.png"]
    assert listing.ids == rows == list(gallery_of(folder))
    unread = []
    for row, name in enumerate(rows):
        try:
            item_digest(listing.read(row)[0])
        except ImageError:
            unread.append(name)
    assert unread == ["bad.png", "broken.png", "pipe.png"]
    (note,) = listing.notes()
    assert note.startswith(f"{folder}: passed over 5 files (2 without an ending, ") and "1 .jsonl" in note
    assert note.endswith(" and 1 linked folders (the first linked)")


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    folder = fill(tmp_path / "f", {b"caf\xe9.png": P, b"d\xe9/c.png": P, "café.png": P})
    listing = open_sources([folder])
    assert sorted(listing.ids) == [r"caf\xe9.png", "café.png", r"d\xe9/c.png"]
    assert sorted(listing.ids[row] for row in listing.faults) == [r"caf\xe9.png", r"d\xe9/c.png"]
    with pytest.raises(DataError, match=r"caf\\xe9.png: its name is no Unicode; rename the file in UTF-8"):
        listing.read(listing.ids.index(r"caf\xe9.png"))
    (folder / "café.png").unlink()
    with pytest.raises(DataError, match="none of 2 rows can be read, the first since .*is no Unicode"):
        open_sources([folder])


def test_a_folder_of_files_of_rows(tmp_path: Path) -> None:
    row = b'{"id": %d, "text": "k"}'
    folder = fill(tmp_path / "f", {"A.JSONL": row % 1, "b.jsonl": row % 2, "sub/c.jsonl": row % 3, "README.md": b"x"})
    listing = open_sources([folder])
    assert listing.ids == ["1", "2"]
    assert listing.notes() == [f"{folder}: passed over 2 files (1 .md, 1 .jsonl)"]
    fill(folder, {"d.parquet": b"x"})
    with pytest.raises(DataError, match=r"holds files of .jsonl and .parquet; give those of one kind, as .*/\*.jsonl"):
        open_sources([folder])
    with pytest.raises(DataError, match=r"holds no pictures; give its files of rows by a pattern, as .*/\*.csv"):
        open_sources([fill(tmp_path / "csv", {"a.csv": b"id,text\n1,k\n"})])
    with pytest.raises(DataError, match="empty folder .* or content; passed over 1 files .1 .doc"):
        open_sources([fill(tmp_path / "doc", {"a.doc": b"x"})])
    with pytest.raises(DataError, match="matches the folder .*; give that alone"):
        open_sources([f"{tmp_path}/*"])


def test_fields_are_used_or_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "f", {"a.png": P})
    with pytest.raises(ConfigError, match="--fields names columns of files of rows, and .* is none: leave it out"):
        open_sources([folder], {"id": "sku", "image": "photo"})
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": 1, "text": "k"}\n{"id": 2, "text": "k", "title": "x"}')
    assert open_sources([rows, folder], {"text": "text", "instruction": "title"}).read(1)[0].words == "x"
    with pytest.raises(ConfigError, match="--fields image=foto: no row of .* has a column 'foto'"):
        open_sources([rows], {"text": "text", "image": "foto"})


@pytest.mark.parametrize("column", ["Image", " image", "images", "IMAGE"])
def test_a_column_that_is_probably_meant_is_named(tmp_path: Path, column: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": 1, "text": "k", column: "a.png", "texts": "x", "other": "y"}))
    assert open_sources([rows]).notes() == [
        f'{rows}: no row has "image", but there is "{column}", which is not read; name it with --fields image={column}'
    ]
    assert open_sources([rows], {"text": "text", "image": column}).notes() == []


def benchmark(folder: Path) -> Path:
    gallery = [{"id": "g", "image": "a.png", "text": "a red flag"}, {"id": "h", "image": "b.png"}]
    queries = [{"id": "q", "image": "a.png", "instruction": "i", "targets": ["g"]}]
    content = {"name": "n", "gallery": gallery, "queries": queries}
    return fill(folder, {"a.png": P, "b.png": picture(9), "benchmark.json": json.dumps(content).encode()})


def test_the_text_of_a_gallery_is_embedded_with_its_picture(
    tmp_path: Path, embedder: MLLMEmbedder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = benchmark(tmp_path / "f")
    listing = open_sources([folder])
    items = [Document(folder / "a.png", "a red flag"), Document(folder / "b.png")]
    assert [listing.read(row)[0] for row in range(2)] == items
    searcher = mllm_embed.Searcher.from_folder(embedder, folder)
    np.testing.assert_allclose(searcher.gallery.vectors, embedder.encode(items), atol=1e-5)


def test_the_command_line_tells_before_it_works(
    tmp_path: Path, tiny_llava: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"d\xe9")))  # a folder that is no Unicode is no row's
    folder = fill(home / "f", {b"caf\xe9.png": P, "ok.png": P, "notes.doc": b"x"})
    model = ["--model", str(tiny_llava)]
    assert main(["encode", str(folder), "--output", str(tmp_path / "s"), *model]) == 0
    told = capsys.readouterr()
    assert "passed over 1 files (1 .doc)" in told.err and "1 rows cannot be read, the first " in told.err
    assert "embedded 1 rows\n1 rows cannot be read: see" in told.out
    (line,) = (tmp_path / "s/unreadable.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == r"caf\xe9.png" and "rename the file in UTF-8" in json.loads(line)["reason"]
    store = VectorStore.open(tmp_path / "s")
    assert store.ids == ["ok.png"] and Path(store.sources[0]).read_bytes() == P
    search = ["search", *model, "--instruction", "red", "--output", str(tmp_path / "x.png"), "--gallery"]
    assert main([*search, str(tmp_path / "s")]) == 0 and r"d\udce9/f/ok.png" in capsys.readouterr().out
    assert main([*search, str(folder)]) == 2
    assert "its name is no Unicode; rename the file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["encode", "{f}", "--output", "{f}.s", "--model", "m", "--workers", "2"], "--workers takes a number from 1"),
        (["encode", "{f}", "--output", "{f}.s", "--model", "m", "--fields", "id=a", "id=b"], "two columns for id"),
        (["encode", "{f}", "--output", "{f}.s", "--model", "m", "--fields", "image=a"], "is none: leave it out"),
        (["encode", "https://x.org/a", "--output", "{f}.s", "--model", "m"], "is a URL, and nothing is downloaded"),
        (["index", "{f}", "--update", "--seed", "0"], "--update trains and measures nothing: leave out --queries"),
        (["index", "{f}", "--update", "--queries", "{f}"], "--update trains and measures nothing"),
    ],
)  # fmt: skip
def test_options_are_used_or_refused(
    tmp_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill(tmp_path / "f", {"a.png": P})
    assert main([option.format(f=folder) for option in options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
