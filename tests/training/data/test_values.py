"""Rows of training data: a value that is there is used, one that is not is told, and each spoils its row alone."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mllm_embed.data.folder import DataFolder
from mllm_embed.errors import DataError
from mllm_embed.training.data import DataSource
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.data.pool import RecordPool
from mllm_embed.training.data.rows import MixedRows
from mllm_embed.training.data.unreadable import UnreadableLog

COLUMNS = {"id": "id", "image": "image", "caption": "text"}
GOOD = {"id": "g", "image": "a.png", "text": "good"}


def opened(path: Path, columns: dict[str, str] = COLUMNS, streaming: bool = False) -> MixedRows:
    (path.parent / "a.png").write_bytes(b"x")
    source = DataSource(path=path, format="columns", columns=columns, streaming=streaming)
    return open_rows([source], "pairs", ["image", "caption"])


def lines(folder: Path, *rows: Any) -> MixedRows:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in (GOOD, *rows)))
    return opened(file)


def told(rows: MixedRows) -> dict[int, str]:
    """Return the rows that cannot be made, and why not; the others have a caption."""
    found = {}
    for index in range(len(rows)):
        try:
            assert rows[index].roles["caption"].text
        except DataError as error:
            found[index] = str(error)
    return found


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("0", "0"), ("0.0", "0.0"), ("false", "False"), ('"1"', "1"), ("NaN", "rows:2"), ("null", "rows:2"),
        ('""', "rows:2"), ('" "', "rows:2"), ('"\\ud83d"', "\\ud83d"),
    ],
)  # fmt: skip
def test_ids(tmp_path: Path, given: str, name: str) -> None:
    assert lines(tmp_path, f'{{"id": {given}, "image": "a.png", "text": "x"}}')[1].id == name


def test_each_value_spoils_its_row_alone(tmp_path: Path) -> None:
    rows = [
        GOOD | {"text": "0"}, GOOD | {"id": [1]}, GOOD | {"text": 0}, GOOD | {"text": False}, GOOD | {"text": ""},
        json.dumps(GOOD | {"text": float("nan")}), json.dumps(GOOD | {"image": float("nan")}),
        GOOD | {"text": "\ud83d"}, GOOD | {"image": "caf\udce9.png"}, GOOD | {"image": "data:image/png;base64,AA"},
        GOOD | {"image": {"bytes": None, "path": None}}, '{"id": 1, "text": "a", "text": "b", "image": "a.png"}',
    ]  # fmt: skip
    found = told(lines(tmp_path, *rows))
    assert list(found) == list(range(2, 13))
    words = [
        "its id is the list [1]", "caption must be a text, not '0'", "caption must be a text, not 'False'",
        '"text" is missing or empty', '"text" is missing or empty', '"image" is missing or empty',
        "caption holds half a character", r"the name caf\xe9.png is no Unicode", "is a URL, and none is fetched",
        '"image" is missing or empty', 'the key "text" stands twice',
    ]  # fmt: skip
    assert [text in reason for text, reason in zip(words, found.values(), strict=True)] == [True] * 11


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_parquet(tmp_path: Path, streaming: bool) -> None:
    def written(name: str, **columns: Any) -> MixedRows:
        pyarrow.parquet.write_table(pyarrow.table({"image": ["a.png"] * 2} | columns), tmp_path / name)
        return opened(tmp_path / name, streaming=streaming)

    rows = written("A.PARQUET", id=[float("nan"), 0.0], text=["x", "y"])
    assert [row.id for row in rows] == ["A:1", "0.0"] and not told(rows)
    rows = written("b.parquet", id=[b"a", b"\xff"], text=[b"x", b"y"])
    assert rows[0].id == "a" and rows[0].roles["caption"].text == "x"
    assert "its id is 1 bytes that are no UTF-8 text" in told(rows)[1]
    bad = pyarrow.StringArray.from_buffers(
        2, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xffy")
    )
    assert list(told(written("c.parquet", id=[1, 2], text=bad))) == [0]
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a.png"])] * 2, names=["image", "image"])
    pyarrow.parquet.write_table(twice, tmp_path / "d.parquet")
    with pytest.raises(DataError, match='d.parquet has two columns "image"'):
        opened(tmp_path / "d.parquet", streaming=streaming)


def test_the_case_of_an_ending_says_nothing(tmp_path: Path) -> None:
    for name, text in (("R.JSONL", json.dumps(GOOD)), ("R.Csv", "id,image,text\ng,a.png,good\n")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(text)
        for given in (folder / name, folder / f"*{name[1:]}", folder):
            assert [row.id for row in opened(given)] == ["g"]


def test_files_that_would_lose_rows_are_refused(tmp_path: Path) -> None:
    for name, content, words in (
        ("a.json", f'[1, {json.dumps(GOOD)}, "lost"] junk'.encode(), "before its first row stands '1'"),
        ("a.csv", b"id,image,text,text\n1,a.png,x,y\n", 'two columns "text"'),
        ("b.csv", "id,image,text\n1,a.png,x\n".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=words):
            opened(tmp_path / name)


def test_samples_whose_files_lie_apart(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.TAR", "w") as tar:
        for name, content in (("a.jpg", b"x"), ("b.jpg", b"y"), ("b.txt", b"second"), ("a.txt", b"first")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    rows = opened(tmp_path / "s.TAR", {"image": "jpg", "caption": "txt"})
    pairs = [(row.roles["image"].image, row.roles["caption"].text) for row in rows]
    assert pairs == [(b"x", "first"), (b"y", "second")]


def test_what_is_no_unicode_can_be_listed(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"d\xe9")))
    folder.mkdir()
    rows = lines(folder, GOOD | {"text": ""})
    log = UnreadableLog(folder / "unreadable.jsonl")
    log.add(*rows.where(1), told(rows)[1])
    assert len(rows.fingerprints()) == 1
    (line,) = (folder / "unreadable.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "id": "row 2",
        "source": str(folder / "rows.jsonl"),
        "reason": '"text" is missing or empty',
    }
    log = UnreadableLog(folder / "unreadable.jsonl")
    log.add(*rows.where(1), told(rows)[1])  # which the file names already
    assert len((folder / "unreadable.jsonl").read_text().splitlines()) == 1


def test_a_pool_with_two_records_of_one_id_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pool.jsonl"
    file.write_text('{"did": "1", "txt": "a"}\n{"did": "2", "txt": "b"}\n{"did": "1", "txt": "a"}\n')
    assert RecordPool(file, "did")["1"]["txt"] == "a"
    file.write_text(file.read_text() + '{"did": "2", "txt": "c"}\n')
    with pytest.raises(DataError, match='pool.jsonl: rows 2 and 4 are both "2"; keep one of them'):
        RecordPool(file, "did")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"id": "a", "image": "a.png", "caption": "\\ud83d"}', 'pairs.jsonl:1: "caption" holds half a character'),
        ('{"id": "a", "image": "caf\\udce9.png", "caption": "x"}', 'pairs.jsonl:1: "image" holds half a character'),
        ('{"id": "a", "id": "b", "image": "a.png"}', 'pairs.jsonl:1: bad JSON .the key "id" stands twice'),
        ('{"id": 0, "image": "a.png", "caption": "x"}', 'pairs.jsonl:1: "id" must be a string, not 0'),
    ],
)  # fmt: skip
def test_rows_of_a_data_folder(tmp_path: Path, row: str, words: str) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "pairs.jsonl").write_text(row)
    with pytest.raises(DataError, match=words) as error:
        DataFolder.open(tmp_path)
    str(error.value).encode()
