"""Mined files: JSON lines, of which the first says what made them, and each other what was found for one row.

    {"format": 2, "rows": "triplets", "sources": [{"path": "a.jsonl", "format": "mbeir", "fingerprint": "..."}, ...],
     "query": "composed", "positive": "target_image", ...}
    {"source": 0, "row": 7, "id": "9:12", "negatives": [{"image": "7.png"}, {"text": "..."}, {"image": "8.png",
     "source": 1}, {"row": 3, "role": "target_image"}], "similarity": [0.61, 0.58, 0.5, 0.4], "cluster": 3}

A row is known by its source and its number in the source's files, since ids are the source's own and may stand twice;
"id" is for people. A negative names its source where it is another one than the row's; its picture by the way from the
folder that the source's pictures are named from ("folder" says which, of several), and by row and role where it is no
file there: bytes in parquet or tar. "cluster" is there where rows were clustered.

Format 1, of one data folder, is read too: {"format": 1, "data": FINGERPRINT, "rows": "triplets"}, and rows by "id".
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from mllm_embed.data.tables.fingerprint import files_fingerprint
from mllm_embed.files import atomic_file, json_bytes
from mllm_embed.types import Document, Item

from ..data.formats import FORMATS
from ..data.rows import SourceRows
from ..data.table_rows import TableRows

MINED_FORMAT = 2


def described(part: SourceRows) -> dict[str, str]:
    """Return a source as a header names it; its fingerprint changes with its files and with how they are read."""
    source = part.source
    found = part.files_fingerprint()
    if source.format != "folder":
        pool = _pool_of(part)
        read = [source.format, sorted(source.columns.items()), found, files_fingerprint([pool]) if pool else None]
        found = hashlib.sha256(json.dumps(read).encode()).hexdigest()
    return {"path": str(source.path), "format": source.format, "fingerprint": found}


def _pool_of(part: SourceRows) -> Path | None:
    """Return the second file of a source, that its rows point into; None where it has none."""
    beside = FORMATS[part.source.format].pool
    if beside is None or not isinstance(part, TableRows):
        return None
    return part.source.pool or beside(part.table.files[0])


def write_mined_file(path: Path, header: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a mined file in one step; `header` needs "rows" and "sources". Raises DataError when the disk fails."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        for line in chain([{"format": MINED_FORMAT, **header}], lines):
            file.write(json_bytes(line))


def written_item(item: Item, part: SourceRows, record: int, role: str) -> dict[str, Any]:
    """Return a negative as a mined file names it, without its source.

    Args:
        item: which plays `role` in the row of `record`.
        part: the rows that it is from.
        record: the row's number there.
        role: what a negative is read as that is more than words, or pictures in files.
    """
    by_row = {"row": record, "role": role}
    if not isinstance(item, Document):
        return by_row
    named = _named(item, list(map(Path, part.roots())))
    return by_row if named is None else named | ({} if item.text is None else {"text": item.text})


def _named(item: Document, folders: list[Path]) -> dict[str, Any] | None:
    """Return an item's pictures by the folder that all of them are named from; None where there is no such folder."""
    if not item.images:
        return {}
    paths = [Path(image) for image in item.images if isinstance(image, (str, os.PathLike))]
    for number, folder in enumerate(folders if len(paths) == len(item.images) else ()):
        names = [_below(path, folder) for path in paths]
        if all(names):
            return {"image": names[0] if len(names) == 1 else names} | ({"folder": number} if number else {})
    return None


def _below(path: Path, folder: Path) -> str:
    """Return the way to a picture from a folder, empty where it does not lie there."""
    if not path.is_relative_to(folder):
        return ""
    name = path.relative_to(folder)
    return "" if os.pardir in name.parts else name.as_posix()
