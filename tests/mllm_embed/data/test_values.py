"""What the cells of a row are taken for: absence is null, NaN or blank alone, and nothing is told apart by chance."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mllm_embed.data.sources import Listing, open_sources
from mllm_embed.errors import DataError
from mllm_embed.types import Document, Query


def lines(folder: Path, *rows: dict[str, Any] | str) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return file


def parquet(folder: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "rows.parquet")
    return folder / "rows.parquet"


def lost(listing: Listing) -> dict[str, str]:
    """Return the ids of rows that cannot be read, and why not."""
    found = {}
    for row, name in enumerate(listing.ids):
        try:
            listing.read(row)
        except DataError as error:
            found[name] = str(error)
    return found


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("0", "0"), ("0.0", "0.0"), ("-1", "-1"), ("1.0", "1.0"), ('"1"', "1"), ("false", "False"), ("true", "True"),
        ('"0"', "0"), ('" a"', " a"), ("12345678901234567890123", "12345678901234567890123"), ('"caf\\u00e9"', "café"),
        ("null", "a.png"), ('""', "a.png"), ('" \\t"', "a.png"), ("NaN", "a.png"),
    ],
)  # fmt: skip
def test_an_id_of_json(tmp_path: Path, given: str, name: str) -> None:
    assert open_sources([lines(tmp_path, f'{{"id": {given}, "image": "a.png"}}')]).ids == [name]


@pytest.mark.parametrize("given", ["Infinity", "1e400", "[1]", "{}", '{"a": 1}', "[]"])
def test_what_is_no_id(tmp_path: Path, given: str) -> None:
    file = lines(tmp_path, {"id": "a", "text": "x"}, f'{{"id": {given}, "text": "y"}}')
    with pytest.raises(DataError, match=r'rows.jsonl: row 2 has no id, since its "id" is the .*, which is no name'):
        open_sources([file])


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ([0, 1], ["0", "1"]),
        ([1.0, 0.5], ["1.0", "0.5"]),
        ([True, False], ["True", "False"]),
        ([b"a", b"b"], ["a", "b"]),
        (pyarrow.array([b"aa", b"bb"], pyarrow.binary(2)), ["aa", "bb"]),
        (pyarrow.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        ([decimal.Decimal("1.10"), decimal.Decimal("2.00")], ["1.10", "2.00"]),
        ([datetime.date(2020, 1, 2), datetime.date(2021, 1, 2)], ["2020-01-02", "2021-01-02"]),
        (pyarrow.array([1, 2], pyarrow.timestamp("s")), ["1970-01-01 00:00:01", "1970-01-01 00:00:02"]),
    ],
)
def test_an_id_of_parquet(tmp_path: Path, column: Any, names: list[str]) -> None:
    assert open_sources([parquet(tmp_path, id=column, text=["x", "y"])]).ids == names


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([float("nan"), 2.0], 'row 1 has no id, since its "id" is empty'),
        ([None, "b"], 'row 1 has no id, since its "id" is empty'),
        (pyarrow.nulls(2), 'row 1 has no id, since its "id" is empty'),
        ([[1], [2]], r'since its "id" is the list \[1\]'),
        ([{"a": 1}, {"a": 2}], 'since its "id" is the dict'),
        ([b"\xff", b"b"], "since its \"id\" is 1 bytes that are no UTF-8 text"),
        ([1, 1], 'the id "1" is given twice, by .*row 1 and .*row 2'),
    ],
)  # fmt: skip
def test_what_is_no_id_of_parquet(tmp_path: Path, column: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_sources([parquet(tmp_path, id=column, text=["x", "y"])])


def test_ids_that_become_one_are_refused_by_name(tmp_path: Path) -> None:
    for one, other in ((1, "1"), (True, "True"), (0.5, "0.5")):
        with pytest.raises(DataError, match=f'the id "{one}" is given twice, by .*row 1 and .*row 2'):
            open_sources([lines(tmp_path, {"id": one, "text": "x"}, {"id": other, "text": "y"})])


def test_words_that_are_zero_are_words_and_numbers_are_none(tmp_path: Path) -> None:
    rows = [
        {"id": 0, "text": "0"},
        {"id": 1, "image": "0", "instruction": "0"},
        {"id": 2, "image": "a.png", "text": "", "instruction": " "},
        '{"id": 3, "image": "a.png", "text": NaN}',
        {"id": 4, "image": "a.png", "text": 0},
        {"id": 5, "image": "a.png", "instruction": 0},
        {"id": 6, "image": "a.png", "text": False},
        {"id": 7, "image": "a.png", "text": []},
        {"id": 8, "image": 0, "text": "x"},
        {"id": 9, "image": {"bytes": None, "path": None}, "text": "x"},
    ]
    listing = open_sources([lines(tmp_path, *rows)])
    assert listing.read(0)[0] == Document(text="0")
    assert listing.read(1)[0] == Query(image=tmp_path / "0", instruction="0")
    assert listing.read(2)[0] == listing.read(3)[0] == Document(image=tmp_path / "a.png")
    assert listing.read(9)[0] == Document(text="x")
    told = lost(listing)
    assert list(told) == ["4", "5", "6", "7", "8"]
    assert 'row 5: its "text" is the int 0, which is no text; put it in quotes' in told["4"]
    assert 'its "instruction" is the int 0' in told["5"] and 'its "text" is the bool false' in told["6"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"id": "a", "image": "", "text": null}', 'row 1 holds nothing to embed: "image", "text" are empty'),
        ('{"id": "a", "text": NaN}', 'row 1 holds nothing to embed: "text" is empty; fill or remove the row'),
        ('{"id": "a", "image": {}}', 'row 1 holds nothing to embed: "image" is empty'),
        ('{"id": "a", "note": "x"}', 'row 1 has neither "image" nor "text" nor "instruction"; name its columns'),
    ],
)  # fmt: skip
def test_a_row_with_nothing_says_why(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        open_sources([lines(tmp_path, row)])
    assert "did you mean" not in str(error.value)


def test_words_and_names_that_are_no_unicode_are_listed_before_any_work(tmp_path: Path) -> None:
    rows = [
        '{"id": 1, "text": "half \\ud83d"}',
        '{"id": 2, "image": "a.png", "instruction": "\\udc00"}',
        '{"id": "\\ud83d", "text": "x"}',
        '{"id": 4, "image": "caf\\udce9.png"}',
        '{"id": 5, "text": "whole \\ud83d\\ude00"}',
        '{"id": 6, "image": "https://example.org/a.png"}',
        '{"id": 7, "image": "data:image/png;base64,AAAA"}',
    ]
    listing = open_sources([lines(tmp_path, *rows)])
    assert listing.ids == ["1", "2", r"\ud83d", "4", "5", "6", "7"] and list(listing.faults) == [0, 1, 2, 3, 5, 6]
    assert listing.read(4)[0] == Document(text="whole \U0001f600")
    told = lost(listing)
    assert r'row 1: its "text" holds half a character (a lone surrogate): half \ud83d; write it' in told["1"]
    assert r'row 3: its id "\ud83d" is no Unicode' in told[r"\ud83d"]
    assert r"row 4: the name caf\xe9.png is no Unicode; rename the file" in told["4"]
    assert "is a URL, and none is fetched; download the pictures" in told["6"] and "is a URL" in told["7"]
    (note,) = listing.notes()
    assert note.startswith("6 rows cannot be read, the first ") and "row 1" in note
    json.dumps(listing.facts()).encode()
    "".join([*told, *told.values(), *listing.notes(), *map(listing.where, range(7))]).encode()


def test_where_no_row_can_be_read_nothing_is_begun(tmp_path: Path) -> None:
    rows = ({"id": 1, "image": "https://example.org/a.png"}, {"id": 2, "image": "s3://bucket/a.png"})
    with pytest.raises(DataError, match="none of 2 rows can be read, the first since .*row 1: https://.* is a URL"):
        open_sources([lines(tmp_path, *rows)])
    for url in ("https://example.org/a.png", "s3://bucket/rows.parquet", "hf://datasets/x"):
        with pytest.raises(DataError, match="is a URL, and nothing is downloaded: fetch it"):
            open_sources([url])


def test_text_of_parquet_that_is_no_utf8_spoils_only_the_rows_that_need_it(tmp_path: Path) -> None:
    offsets, data = pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xffy")
    bad = pyarrow.StringArray.from_buffers(2, offsets, data)
    listing = open_sources([parquet(tmp_path, id=["a", "b"], text=bad)])
    assert list(lost(listing)) == ["a"] and listing.read(1)[0] == Document(text="y")
    assert not lost(open_sources([parquet(tmp_path, id=["a", "b"], text=["x", "y"], note=bad)]))
    with pytest.raises(DataError, match='row 1 has no id, since its "id" is 1 bytes that are no UTF-8 text'):
        open_sources([parquet(tmp_path, id=bad, text=["x", "y"])])


def test_pictures_in_parquet_that_are_not_there(tmp_path: Path) -> None:
    listing = open_sources([parquet(tmp_path, id=[0, 1], image=[b"x", None], text=[None, "y"])])
    assert listing.ids == ["0", "1"] and listing.read(1)[0] == Document(text="y")
    image = [{"bytes": b"x", "path": None}, {"bytes": None, "path": None}]
    told = lost(open_sources([parquet(tmp_path, id=[0, 1], image=image)]))
    assert list(told) == ["1"] and 'row 2: it holds nothing to embed: "image" is empty' in told["1"]
