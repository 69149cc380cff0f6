"""Files of rows that are not what they should be: the right rows or one sentence, and never some of the rows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from mllm_embed.data.sources import open_sources
from mllm_embed.data.tables import json_table
from mllm_embed.data.tables import spans as spans_module
from mllm_embed.data.tables.spans import json_spans
from mllm_embed.errors import DataError

A, B = '{"id": 1, "text": "k"}', '{"id": 2, "text": "k [,] \\" {"}'
BETWEEN = "a JSON list of rows holds objects with a comma between two, and nothing else"


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize(
    "text", [f"[{A},{B}]", f"[\n {A} ,\r\n\t{B}\n]\n\n", f"\ufeff[{A}, {B},]", f"{A}\n{B}", f"\ufeff\n{A}\r\n\n{B}\n"]
)
def test_rows_of_json(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    listing = open_sources([tmp_path / name])
    assert listing.ids == ["1", "2"] and listing.read(1)[0].text == 'k [,] " {'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'[1, {A}, "lost"] junk', f"before its first row stands '1'; {BETWEEN}"),
        (f'[{A}, "lost"]', f"behind row 1 stands '\"lost\"\\]'; {BETWEEN}"),
        (f"[{A}, null, {B}]", "behind row 1 stands 'null'"),
        (f"[{A}] junk", r"behind row 1 stands '\] junk'"),
        (f"[{A},,{B}]", "behind row 1 stands no comma, or more than one"),
        (f"[{A} {B}]", "behind row 1 stands no comma, or more than one"),
        (f"[{A}{B}]", "behind row 1 stands no comma, or more than one"),
        (f"[{A}][{B}]", r"behind row 1 stands '\]\['"),
        (f"[{A}]\n[{B}]", "behind row 1 stands"),
        (f"[{A}/* and */,{B}]", r"behind row 1 stands '/\* and \*/'"),
        (f"[{A}]}}", "behind row 1 stands"),
        (f"[{A}}}", "behind row 1 stands '}'"),
        ("[1, 2]", "before its first row stands"),
        (f"[[{A}], {B}]", r"row 1: it is no JSON object but \[\{"),
        (f"{A}{B}", "row 1: it is not JSON .Extra data"),
        (f"{A}\n[1]", r"row 2: it is no JSON object but \[1\]"),
        (f"{A}\nnull", "row 2: it is no JSON object but null"),
        (f"{A} // so", "row 1: it is not JSON"),
        ('{"id": 1, "text": "a", "text": "b"}', 'row 1: it is not JSON .the key "text" stands twice'),
        ('[{"id": 1, "id": 2, "text": "a"}]', 'row 1: it is not JSON .the key "id" stands twice'),
        ('{"id": 1, "text": "a", "more": {"x": 1, "x": 2}}', 'the key "x" stands twice'),
        ('{"id": ' + "9" * 5000 + ', "text": "a"}', "row 1: it is not JSON .Exceeds the limit"),
        ('{"a":' * 5000, "row 1: it is not JSON"),
        ("[" * 100_000, "ends in the middle of its JSON list"),
    ],
)  # fmt: skip
def test_json_that_holds_more_than_rows(tmp_path: Path, text: str, words: str) -> None:
    for name in ("rows.json", "rows.jsonl"):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=words) as error:
            open_sources([tmp_path / name])
        assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("gaps", [1, 2, 7])
def test_junk_is_found_wherever_it_stands(tmp_path: Path, gaps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans_module, "_GAPS", gaps)
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 16):
        rows = [json.dumps({"id": number, "text": "x, ]["}) for number in range(count)]
        separators = [", "] * (count - 1)
        (tmp_path / "rows.json").write_text(f"[{''.join(a + b for a, b in zip(rows, [*separators, ''], strict=True))}]")
        assert len(json_spans(tmp_path / "rows.json").starts) == count
        at = int(rng.integers(count))
        rows[at] += rng.choice([" 1", "x", '"', " ,null"])
        (tmp_path / "rows.json").write_text(f"[{''.join(a + b for a, b in zip(rows, [*separators, ''], strict=True))}]")
        with pytest.raises(DataError, match=f"behind row {at + 1} stands|ends in the middle"):
            json_spans(tmp_path / "rows.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,text,text\n1,a,b\n", 'rows.csv has two columns "text"; rename one of them'),
        ("id,id,text\n1,2,b\n", 'rows.csv has two columns "id"'),
        ("id,text\n1,a,b\n", "row 1: it has 3 cells, and the columns are id, text"),
        ("id,text\n1,a\n2\n", "row 2: it has 1 cells"),
        ('id,text\n1,"a\n2,b\n', "line 2 opens a quote that is not closed"),
        ("id,text\r1,a\r", "it reads as 2 rows: a line break outside quotes"),
        (b"id,text\n1,caf\xe9\n", "row 1: it is not UTF-8 text .byte 5 of the row.; save the file as UTF-8"),
        ("id,text\n1,a\n".encode("utf-16"), "rows.csv is UTF-16 text: save it as UTF-8"),
        ("id,text\n1,a\n".encode("utf-16-le"), "rows.csv holds NUL bytes, so it is UTF-16 or no text"),
        (b"id,text\n" + b"0,kkkkkkkkkk\n" * 400 + b"9,a\0b\n", "row 401: it holds a NUL byte"),
        (b"\x1f\x8b\x08abc", "rows.csv is compressed by gzip: unpack it"),
        (b"PK\x03\x04abc", "rows.csv is a zip archive or a workbook"),
        (b"PAR1abc", "rows.csv is a parquet file: name it .parquet"),
        (" id,text\n1,a\n", "row 1 has no \"id\"; name the column with --fields id=...; did you mean ' id'?"),
    ],
)  # fmt: skip
def test_csv_that_would_lose_something(tmp_path: Path, text: str | bytes, words: str) -> None:
    (tmp_path / "rows.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=words):
        open_sources([tmp_path / "rows.csv"])


def test_columns_without_a_name_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,text,,\nnan,a,,\n01,b,,\n1,c,,\n")
    assert open_sources([tmp_path / "rows.csv"]).ids == ["nan", "01", "1"]


def test_parquet_that_is_not_whole(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    twice = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["id", "id"])
    pyarrow.parquet.write_table(twice, file)
    with pytest.raises(DataError, match='rows.parquet has two columns "id"'):
        open_sources([file])
    table = pyarrow.table({"id": list(range(300)), "text": [f"text {number}" for number in range(300)]})
    pyarrow.parquet.write_table(table, file, row_group_size=100)
    whole = file.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="rows.parquet is not a parquet file .*; fetch it again"):
            open_sources([file])
    file.write_bytes(whole[:200] + bytes(300) + whole[500:])
    with pytest.raises(DataError, match="rows.parquet: row 1: row group 0 cannot be read"):
        open_sources([file])


@pytest.mark.parametrize("name", ["rows.JSONL", "Rows.Json", "rows.CSV", "rows.Tsv", "A.PARQUET"])
def test_the_case_of_an_ending_says_nothing(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name == "A.PARQUET":
        pyarrow.parquet.write_table(pyarrow.table({"id": [1], "text": ["k"]}), file)
    else:
        file.write_text({"c": "id,text\n1,k\n", "t": "id\ttext\n1\tk\n"}.get(name[5].lower(), A))
    for given in (file, f"{tmp_path}/*{file.suffix}"):
        assert open_sources([given]).ids == ["1"]
    assert (open_sources([tmp_path]).ids == ["1"]) if name in ("rows.JSONL", "A.PARQUET") else True


def test_a_damaged_list_gives_what_a_parser_of_json_gives_or_is_refused(tmp_path: Path) -> None:
    rows = [{"id": number, "text": 'k "q" [,] {é', "more": {"a": [1, {"b": None}]}} for number in range(4)]
    bases = [json.dumps(rows).encode(), json.dumps(rows, indent=1, ensure_ascii=False).encode()]
    rng, letters = np.random.default_rng(5), b'[]{},:"\\ \n\t1ax'
    read = 0
    for number in range(200):
        data = bytearray(bases[number % 2])
        for at in rng.integers(1, len(data), size=1 + number % 3).tolist():
            letter = letters[int(rng.integers(len(letters)))]
            data[at : at + number % 2] = bytes([letter]) * int(rng.integers(3))
        (tmp_path / "rows.json").write_bytes(data)
        try:
            table = json_table([tmp_path / "rows.json"])
            found = [table.record(row) for row in range(len(table))]
        except DataError as error:
            assert len(str(error)) < 400
            continue
        text = re.sub(r",\s*\]\s*\Z", "]", data.decode())  # a comma behind the last row loses nothing
        assert found == json.loads(text)
        read += 1
    assert read > 15
