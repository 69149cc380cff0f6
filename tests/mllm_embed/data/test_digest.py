"""What a row holds as one number: equal wherever the row stands, another for every change."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from mllm_embed.data.digest import item_digest
from mllm_embed.data.sources import open_sources
from mllm_embed.errors import DataError, ImageError


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def written(folder: Path, rows: list[dict], suffix: str) -> Path:
    """Write rows as a file of one kind, beside the pictures that they name."""
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(png(1))
    file = folder / f"rows{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text("\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else json.dumps(rows))
    return file


def test_one_row_has_one_digest_in_every_folder_and_format(tmp_path: Path) -> None:
    rows = [{"id": "a", "image": "a.png", "text": None, "instruction": "caf\u00e9 \u8d64\u304f"}]
    files = [written(tmp_path / suffix[1:], rows, suffix) for suffix in (".json", ".jsonl", ".csv", ".parquet")]
    inside = tmp_path / "inside.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([rows[0] | {"image": png(1)}]), inside)
    digests = {item_digest(open_sources([file]).read(0)[0]) for file in (*files, inside)}
    assert len(digests) == 1
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "x.png").write_bytes(png(1))
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(alone / "x.png", "k.png")
    sources = [tmp_path / "s.tar", alone, written(tmp_path / "one", [{"id": 1, "image": "a.png"}], ".jsonl")]
    listing = open_sources(sources)
    assert len({item_digest(listing.read(row)[0]) for row in range(3)} | digests) == 2


def test_every_change_of_a_row_changes_its_digest(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "text": "x"}, {"image": "a.png", "instruction": "x"}, {"image": "a.png"}, {"text": "x"},
        {"instruction": "x"}, {"text": "x", "instruction": "y"}, {"text": "y", "instruction": "x"}, {"text": "x "},
        {"text": "\u00e9"}, {"text": "e\u0301"},
    ]  # fmt: skip
    listing = open_sources([written(tmp_path, [one | {"id": at} for at, one in enumerate(rows)], ".jsonl")])
    before = [item_digest(listing.read(at)[0]) for at in range(len(rows))]
    assert len(set(before)) == len(rows)
    (tmp_path / "a.png").write_bytes(png(2))
    after = [item_digest(listing.read(at)[0]) for at in range(len(rows))]
    assert [old == new for old, new in zip(before, after, strict=True)] == ["image" not in one for one in rows]


def test_what_cannot_be_read_has_no_digest(tmp_path: Path) -> None:
    rows = [{"id": "a", "image": "gone.png"}, {"id": "b", "image": 3}]
    listing = open_sources([written(tmp_path, rows, ".jsonl")])
    with pytest.raises(ImageError, match="gone.png does not exist"):
        item_digest(listing.read(0)[0])
    with pytest.raises(DataError, match="row 2"):
        item_digest(listing.read(1)[0])
