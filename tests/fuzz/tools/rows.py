"""Small files of rows in every format, and the rows of a damaged one, by a reading that shares no code with ours."""

from __future__ import annotations

import csv
import io
import json
import math
import tarfile
from collections.abc import Callable
from typing import Any, NamedTuple

from fuzz.tools.pictures import made

PICTURES = {"images/0.png": made()["png"], "images/1.jpg": made()["jpeg"]}
FIELDS = ("id", "image", "text", "instruction")


class Row(NamedTuple):
    """A row as it must arrive: `words` are text and instruction, `picture` the bytes or the path."""

    id: str
    words: tuple[str | None, str | None]
    picture: bytes | str | None


class Bad(Exception):
    """A file that holds no rows, or a row that must be told of."""


RECORDS = [
    {"id": "t0", "text": "a red car"},
    {"id": "t1", "text": 'a "quoted", word'},
    {"id": "t2", "text": "two\nlines"},
    {"id": "t3", "text": "ünïcode 東京 \U0001f98a"},
    {"id": "i0", "image": "images/0.png"},
    {"id": "i1", "image": "images/1.jpg", "text": "silk, 40 EUR"},
    {"id": "q0", "image": "images/0.png", "instruction": "make it red"},
    {"id": "q1", "text": "a dress", "instruction": "sleeveless"},
]


def _table(delimiter: str) -> bytes:
    stream = io.StringIO(newline="")
    if delimiter == ",":
        writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(RECORDS)
    else:
        stream.write("\t".join(FIELDS) + "\n")
        for record in RECORDS:
            stream.write("\t".join(record.get(name, "").replace("\n", " ") for name in FIELDS) + "\n")
    return stream.getvalue().encode()


def _parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    pictures = {"images/0.png": PICTURES["images/0.png"], "images/1.jpg": PICTURES["images/1.jpg"], None: None}
    columns = {name: [record.get(name) for record in RECORDS] for name in ("id", "text", "instruction")}
    columns["image"] = [pictures[record.get("image")] for record in RECORDS]
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream, row_group_size=3)
    return stream.getvalue()


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    """Return a tar file of some members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _tar() -> bytes:
    members = []
    for number in range(8):
        members.append((f"k{number}.png", PICTURES["images/0.png"]))
        members.append((f"k{number}.text", f"words of {number}".encode()))
    return tar_of(members)


FILES: dict[str, bytes] = {
    "rows.json": json.dumps(RECORDS, indent=1, ensure_ascii=False).encode(),
    "rows.jsonl": "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode(),
    "rows.csv": _table(","),
    "rows.tsv": _table("\t"),
    "rows.parquet": _parquet(),
    "rows.tar": _tar(),
}


def _strict(text: str) -> Any:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(found)) < len(found):
            raise Bad("a key twice")
        return dict(found)

    def constant(name: str) -> float:
        if name == "NaN":
            return math.nan  # which tables write where there is nothing
        raise Bad(name)

    return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)


def _utf8(data: bytes) -> str:
    text = data.decode("utf-8-sig")
    if "\0" in text:
        raise Bad("nul")
    return text


def row_of(record: Any) -> Row:
    """Return the row that a record holds. Raise Bad for one that must be told of."""
    if not isinstance(record, dict):
        raise Bad("no object")
    values = {name: None if _nothing(record.get(name)) else record.get(name) for name in FIELDS}
    for name, value in values.items():
        text = isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
        fine = text or value is None or (name == "image" and isinstance(value, bytes))
        # ids are what Python writes, numbers and truth values too
        if not fine and not (name == "id" and isinstance(value, (int, float)) and math.isfinite(value)):
            raise Bad(f"{name} is {value!r}"[:80])
    picture, name = values["image"], values["id"]
    name = name if name is not None else picture
    if all(values[field] is None for field in FIELDS[1:]) or name is None or isinstance(name, bytes):
        raise Bad("nothing to embed, or no id")
    return Row(str(name), (values["text"], values["instruction"]), picture)


def _nothing(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _json(data: bytes) -> list[Any]:
    found = _strict(_utf8(data))
    if not isinstance(found, list):
        raise Bad("no list")
    return found


def _lines(data: bytes) -> list[Any]:
    found: list[Any] = []
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if line.strip():
            try:
                found.append(_strict(_utf8(line)))
            except (ValueError, Bad, RecursionError):
                found.append(None)
    return found


def _csv(data: bytes) -> list[Any]:
    rows = [row for row in csv.reader(io.StringIO(_utf8(data), newline=""), strict=True) if row]
    return _celled(rows)


def _tsv(data: bytes) -> list[Any]:
    return _celled([line.rstrip("\r").split("\t") for line in _utf8(data).split("\n") if line.strip("\r")])


def _celled(rows: list[list[str]]) -> list[Any]:
    if not rows or len(set(rows[0])) < len(rows[0]):
        raise Bad("no header, or a column twice")
    return [dict(zip(rows[0], row, strict=True)) if len(row) == len(rows[0]) else None for row in rows[1:]]


def _read_parquet(data: bytes) -> list[Any]:
    import pyarrow.parquet

    found: list[Any] = pyarrow.parquet.read_table(io.BytesIO(data), use_threads=False).to_pylist()
    return found


READERS: dict[str, Callable[[bytes], list[Any]]] = {
    "rows.json": _json,
    "rows.jsonl": _lines,
    "rows.csv": _csv,
    "rows.tsv": _tsv,
    "rows.parquet": _read_parquet,
}


def rows_there(name: str, data: bytes) -> list[Row | None]:
    """Return the rows of a damaged file in their order, None for one that must be told of.

    Raises whatever the standard library's parser raises, or Bad, where there are no rows to speak of.
    """
    found: list[Row | None] = []
    for record in READERS[name](data):
        try:
            found.append(row_of(record))
        except Bad:
            found.append(None)
    names = [row.id for row in found if row]
    if len(set(names)) < len(names):
        raise Bad("an id twice")
    return found
