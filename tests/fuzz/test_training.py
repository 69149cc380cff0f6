"""Training data, data folders and mined files, malformed: a sentence, or all that they say and no more."""

from __future__ import annotations

import csv
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fuzz.tools.damages import DAMAGES, MISFITS, TEXTS, changed, damaged, dropped, misfit
from fuzz.tools.harness import RIGHT, SKIPPED, TOLD, Case, Told, attempt, expect, plain, sift
from fuzz.tools.json_doors import difference, json_list, strict_json
from mllm_embed.data.folder import DataFolder
from mllm_embed.training.data import DataSource
from mllm_embed.training.data.open import open_rows
from mllm_embed.training.mining.mined_file import described, write_mined_file
from mllm_embed.training.mining.mined_rows import MinedRows
from tiny import make_data


def _talk(at: int) -> list[dict[str, str]]:
    return [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": f"a caption {at}"}]


DATA: dict[str, tuple[str, str, tuple[str, ...], list[dict[str, Any]]]] = {
    "llava": (
        "chat.json",
        "pairs",
        ("image", "caption"),
        [{"id": str(at), "image": f"images/{at}.png", "conversations": _talk(at)} for at in range(8)],
    ),
    "text-triplets": (
        "LLM_triplets.jsonl",
        "texts",
        ("source_text", "target_text"),
        [
            {"reference_caption": f"a {at}", "conditioning_caption": f"as {at}", "target_caption": f"b {at}"}
            for at in range(8)
        ],
    ),
    "nli": (
        "nli.csv",
        "texts",
        ("source_text", "target_text"),
        [{"sent0": f"a {at}, or so", "sent1": f'b "{at}"', "hard_neg": f"c\n{at}"} for at in range(8)],
    ),
    "tsv": (
        "cc3m.tsv",
        "pairs",
        ("image", "caption"),
        [{"caption": f"a caption {at}", "image": f"images/{at}.png"} for at in range(8)],
    ),
    "megapairs": (
        "mega.jsonl",
        "triplets",
        ("composed", "target_image"),
        [
            {"q_img": f"images/{at}.png", "q_text": [f"make it {at}"], "t_img": f"images/{(at + 1) % 8}.png", "hns": []}
            for at in range(8)
        ],
    ),
    "mmeb": (
        "mmeb.jsonl",
        "triplets",
        ("composed", "target_image"),
        [
            {
                "qry": f"<|image_1|>\nmake it {at}",
                "qry_image_path": f"images/{at}.png",
                "pos_text": "<|image_1|>",
                "pos_image_path": f"images/{(at + 1) % 8}.png",
                "neg_text": "",
                "neg_image_path": "",
            }
            for at in range(8)
        ],
    ),
}


def _written(format: str, records: list[Any]) -> bytes:
    """Return a file of records, or of their JSON where they are texts."""
    suffix = Path(DATA[format][0]).suffix
    if suffix == ".tsv":
        return "".join(f"{record['caption']}\t{record['image']}\n" for record in records).encode()
    if suffix == ".csv":
        stream = io.StringIO(newline="")
        writer = csv.DictWriter(stream, list(DATA[format][3][0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return stream.getvalue().encode()
    lines = [json.dumps(record) for record in records]
    return f"[{', '.join(lines)}]".encode() if suffix == ".json" else "".join(f"{line}\n" for line in lines).encode()


def _records(format: str, data: bytes) -> list[Any] | None:
    """Return the records of a file, None for one that is broken; None stands also for a broken record."""
    suffix = Path(DATA[format][0]).suffix
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    try:
        if suffix == ".json":
            return json_list(text)
        if suffix == ".jsonl":
            return [json_list(f"[{line}]", whole=False)[0] for line in text.split("\n") if line.strip()]
        if suffix == ".tsv":
            cells = [line.rstrip("\r").split("\t") for line in text.split("\n") if line.strip("\r")]
            return [_sound({"caption": row[0], "image": row[1]}) if len(row) == 2 else None for row in cells]
        head, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except (ValueError, csv.Error, RecursionError):
        return None
    if len(set(head)) < len(head):
        return None
    return [_sound(dict(zip(head, row, strict=True))) if len(row) == len(head) else None for row in rows]


def _sound(record: dict[str, str]) -> dict[str, str] | None:
    """Return a record of texts; None where one of them was no UTF-8."""
    return None if any("\udc80" <= letter <= "\udcff" for value in record.values() for letter in value) else record


DATA_CASES = [Case(f"{format}, {damage}", (format, damage, 0)) for format in DATA for damage in (*DAMAGES, *TEXTS)]
DATA_CASES += [
    Case(f"{format}, {kind}", (format, kind, 0))
    for format in ("llava", "text-triplets", "megapairs", "mmeb")
    for kind in (*MISFITS, "a key less", "a number", "words", "a list")
]
_ODD_RECORDS = {"a number": 1, "words": "lost", "a list": [1]}


@pytest.mark.slow
def test_training_data(tmp_path: Path) -> None:
    make_data(tmp_path)
    whole = {}
    for format, (name, _, _, records) in DATA.items():
        (tmp_path / name).write_bytes(_written(format, records))
        whole[format] = _rows(format, tmp_path / name)[0]

    def judge(case: Case) -> str:
        format, kind, seed = case.what
        path = tmp_path / DATA[format][0]
        path.write_bytes(_damaged_data(format, kind, seed))
        found = attempt(lambda: _rows(format, path))
        if isinstance(found, Told):
            return TOLD
        records = _records(format, path.read_bytes())
        made, count, skipped = found
        if records is None:  # of which the readers may still take the rows that are whole, and name the others
            expect(len(made) < count and set(made) <= set(whole[format]), f"read, though broken: {str(found)[:100]}")
            return SKIPPED
        expect(count + skipped == len(records or []), f"{len(records or [])} rows there, {count} + {skipped} read")
        # the same records, written anew
        path.write_bytes(_written(format, [record for record in records or [] if isinstance(record, dict)]))
        clean = attempt(lambda: _rows(format, path))
        expect(isinstance(clean, Told) or set(made) <= set(clean[0]), f"other rows: {set(made) - set(clean[0])}")
        return SKIPPED if skipped or len(made) < count else RIGHT

    sift("training data", DATA_CASES, judge)


def _damaged_data(format: str, kind: str, seed: int) -> bytes:
    records: list[Any] = DATA[format][3]
    if kind in (*DAMAGES, *TEXTS):
        return damaged(_written(format, records), kind, seed)
    if kind in _ODD_RECORDS:
        return _written(format, [*records[:3], _ODD_RECORDS[kind], *records[4:]])
    tree = dropped(records, seed)[0] if kind == "a key less" else misfit(records, kind, seed)[0]
    return _written(format, tree)


def _rows(format: str, path: Path) -> tuple[list[str], int, int]:
    """Return the rows that can be made, as texts, how many there are, and how many are left out, which is said."""
    _, kind, roles, _ = DATA[format]
    rows = open_rows([DataSource(path=path, format=format)], kind, roles)
    made = []
    for at in range(len(rows)):
        row = attempt(lambda at=at: rows[at])
        if not isinstance(row, Told):
            # ids that number the lines differ where a broken line is left out
            made.append(plain({role: repr(item) for role, item in row.roles.items()}))
    return made, len(rows), sum(rows.skipped().values())


def _folder_says(folder: Path) -> str:
    data = DataFolder.open(folder)
    # whatever the folder is called
    return plain([repr([data.pairs, data.triplets, data.texts, data.benchmark])]).replace(str(folder), "")


FOLDER_FILES = ("pairs.jsonl", "triplets.jsonl", "texts.jsonl")
FOLDER_CASES = [
    Case(f"{file}, {kind}", (file, kind, seed))
    for file in FOLDER_FILES
    for kind in (*DAMAGES, *TEXTS, *MISFITS, "a key less", "a row twice", "a number", "words", "a list")
    for seed in (0,)
]


@pytest.mark.slow
def test_data_folders(tmp_path: Path) -> None:
    make_data(tmp_path)
    texts = [{"id": f"s{at}", "source_text": f"a {at}", "target_text": f"b {at}"} for at in range(8)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    contents = {name: (tmp_path / name).read_bytes() for name in FOLDER_FILES}
    whole = _folder_says(tmp_path)

    def judge(case: Case) -> str:
        file, kind, seed = case.what
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        (tmp_path / file).write_bytes(_damaged_lines(contents[file], kind, seed))
        found = attempt(partial(_folder_says, tmp_path))
        if isinstance(found, Told):
            return TOLD
        if found == whole:
            return RIGHT
        lines = (tmp_path / file).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
        records = [strict_json(line) for line in lines if line.strip()]
        expect(None not in records, f"read, though a line is broken: {difference(whole, found)}")
        (tmp_path / file).write_text("".join(json.dumps(record) + "\n" for record in records))
        expect(found == _folder_says(tmp_path), "other rows than written anew")
        expect(
            kind not in MISFITS or kind in ("null", "'1'", "'no'", "the letter nul", "a long text"),
            difference(whole, found),
        )
        return RIGHT

    sift("data folders", FOLDER_CASES, judge)


def _damaged_lines(data: bytes, kind: str, seed: int) -> bytes:
    """Damage a file of JSON lines: its bytes, or a value of one of its lines."""
    if kind in (*DAMAGES, *TEXTS):
        return damaged(data, kind, seed)
    rows: list[Any] = [json.loads(line) for line in data.splitlines()]
    if kind == "a row twice":
        rows.insert(2, rows[2])
    elif kind in _ODD_RECORDS:
        rows = changed(rows, (3,), _ODD_RECORDS[kind])
    else:
        rows = dropped(rows, seed)[0] if kind == "a key less" else misfit(rows, kind, seed)[0]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


MINED_CASES = [
    Case(f"a mined file, {kind} ({seed})", (kind, seed))
    for kind in (*DAMAGES, *TEXTS, *MISFITS, "a key less", "a row twice", "a number", "words", "a list")
    for seed in range(2)
]


@pytest.mark.slow
def test_mined_files(tmp_path: Path) -> None:
    path, data = tmp_path / "mined.jsonl", make_data(tmp_path / "data")
    lines = [
        {"source": 0, "row": at, "negatives": [{"image": f"images/{at}.png"}, {"text": f"no {at}"}], "cluster": at % 3}
        for at in range(8)
    ]
    mixed = open_rows([DataSource(path=data)], "triplets", [])
    write_mined_file(path, {"sources": [described(part) for part in mixed.parts], "rows": "triplets"}, lines)
    content = path.read_bytes()

    def read() -> str:
        mined = MinedRows(path, mixed, "triplets")
        return plain([[mined.negatives(0, at) for at in range(8)], mined.clusters().tolist()])

    whole = read()

    def judge(case: Case) -> str:
        kind, seed = case.what
        path.write_bytes(_damaged_lines(content, kind, seed))
        found = attempt(read)
        if isinstance(found, Told):
            return TOLD
        if found == whole or kind in ("null", "a key less"):
            return RIGHT
        expect(
            kind not in MISFITS or kind in ("'1'", "'no'", "the letter nul", "a long text"), difference(whole, found)
        )
        records = [strict_json(line) for line in path.read_bytes().split(b"\n") if line.strip()]
        expect(None not in records, f"read, though a line is broken: {difference(whole, found)}")
        return RIGHT

    sift("mined files", MINED_CASES, judge)


CASES = [*DATA_CASES, *FOLDER_CASES, *MINED_CASES]
