"""Of damaged files of rows, every row arrives, is named, or the file is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fuzz.tools.damages import DAMAGES, MISFITS, TEXTS, damaged, doubled_key, dropped, misfit
from fuzz.tools.harness import RIGHT, SKIPPED, TOLD, Case, Told, attempt, expect, sift
from fuzz.tools.rows import FILES, PICTURES, READERS, RECORDS, Row, row_of, rows_there
from mllm_embed.data.sources import open_sources

_SEEDS = 3
BYTE_CASES = [
    Case(f"{name}, {damage} ({seed})", (name, damage, seed))
    for name in FILES
    for damage in (*DAMAGES, *(TEXTS if name in ("rows.json", "rows.jsonl", "rows.csv", "rows.tsv") else ()))
    for seed in range(_SEEDS)
]


def _folder(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    for name, data in PICTURES.items():
        (folder / name).write_bytes(data)
    return folder


def _read(path: Path) -> tuple[list[Row], list[str]] | Told:
    """Return the rows of a file as they arrive, and what is said of those that do not; or what is said of the file."""
    listing = attempt(lambda: open_sources([path]))
    if isinstance(listing, Told):
        return listing
    rows, named = [], []
    for at, name in enumerate(listing.ids):
        read = attempt(lambda at=at: listing.read(at)[0])
        if isinstance(read, Told):
            named.append(read.sentence)
            continue
        picture = read.images[0] if read.images else None
        picture = (
            picture if picture is None or isinstance(picture, bytes) else str(Path(picture).relative_to(path.parent))
        )
        words = (read.text, getattr(read, "instruction", None))
        rows.append(Row(name, words, picture))
    return rows, named


def _compare(found: tuple[list[Row], list[str]] | Told, there: list[Row | None]) -> str:
    """Compare what arrived with what is there; some may be named instead."""
    if isinstance(found, Told):
        return TOLD
    rows, named = found
    good = [row for row in there if row]
    strange = [row for row in rows if row not in good]
    expect(not strange, f"a row that is not there: {strange[:1]}")
    expect(len(rows) + len(named) == len(there), f"{len(there)} rows there, {len(rows)} read, {len(named)} named")
    return SKIPPED if named else RIGHT


@pytest.mark.slow
def test_damaged_files_of_rows(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "rows")

    def judge(case: Case) -> str:
        name, damage, seed = case.what
        data = damaged(FILES[name], damage, seed)
        path = folder / name
        path.write_bytes(data)
        found = _read(path)
        if name not in READERS:
            return _tar(found, damage)
        try:
            there = rows_there(name, data)
        except Exception as error:  # whatever a parser raises: the file is broken
            if name == "rows.parquet" and not isinstance(found, Told):  # whose row groups are read one by one
                return _compare(found, rows_there(name, FILES[name]))
            expect(
                isinstance(found, Told), f"read, though {type(error).__name__}: {str(error)[:100]}: {str(found)[:150]}"
            )
            return TOLD
        if not there:
            expect(isinstance(found, Told), "a file without rows is read")
        return _compare(found, there)

    sift("rows", BYTE_CASES, judge)


def _tar(found: tuple[list[Row], list[str]] | Told, damage: str) -> str:
    """A tar file has checksums over its headers alone: all samples are there, or it is told."""
    if isinstance(found, Told):
        return TOLD
    rows, named = found
    expect(len(rows) + len(named) == 8, f"8 samples there, {len(rows)} read, {len(named)} named")
    expect([row.id for row in rows] == [f"k{at}" for at in range(8)] or bool(named), "other names")
    return SKIPPED if named else RIGHT


MISFIT_CASES = [
    Case(f"{name}, {value} ({seed})", (name, value, seed))
    for name in ("rows.json", "rows.jsonl")
    for value in (*MISFITS, "a key less", "a key twice", "a row twice", "a number", "words", "a list")
    for seed in range(_SEEDS)
]


def _odd_rows(value: str, seed: int) -> tuple[list[str], list[Row | None] | None]:
    """Return the rows of a file as JSON, with one that is odd; and what is there, None where it must be refused."""
    records: list[Any] = [dict(record) for record in RECORDS]
    at = seed * 3 % len(records)
    lines = [json.dumps(record) for record in records]
    if value == "a row twice":
        return [*lines, lines[at]], None
    if value == "a key twice":
        lines[at] = doubled_key(records[at], seed)[0]
        records[at] = None
    elif value == "a key less":
        records[at] = dropped(records[at], seed)[0]
        lines[at] = json.dumps(records[at])
    elif value in MISFITS:
        records[at] = misfit(records[at], value, seed)[0]
        lines[at] = json.dumps(records[at])
    else:
        records[at] = {"a number": 1, "words": "lost", "a list": [1, "x"]}[value]
        lines[at] = json.dumps(records[at])
    return lines, [_row_or_none(record) for record in records]


def _row_or_none(record: Any) -> Row | None:
    try:
        return row_of(record)
    except Exception:
        return None


@pytest.mark.slow
def test_odd_values_of_rows(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "rows")

    def judge(case: Case) -> str:
        name, value, seed = case.what
        lines, there = _odd_rows(value, seed)
        text = "".join(f"{line}\n" for line in lines) if name == "rows.jsonl" else f"[{', '.join(lines)}]"
        (folder / name).write_text(text)
        found = _read(folder / name)
        if there is None:
            expect(isinstance(found, Told), "a row twice, without a word")
            return TOLD
        return _compare(found, there)

    sift("odd values of rows", MISFIT_CASES, judge)


CASES = [*BYTE_CASES, *MISFIT_CASES]
