"""Mined files: JSON lines, of which the first says what made them, and each other what was found for one row.

    {"format": 1, "data": FINGERPRINT, "rows": "triplets", "query": "composed", "positive": "target_image", ...}
    {"id": "t1", "negatives": [{"image": "images/7.png"}, {"text": "..."}], "similarity": [0.61, 0.58], "cluster": 3}

Pictures are named as in the data folder's own files, relative to it. "cluster" is there where rows were clustered.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from mllm_embed.errors import DataError, reason
from mllm_embed.files import atomic_file, json_bytes, parse_json, read_text
from mllm_embed.types import Document, ImageLike, Item

MINED_FORMAT = 1


class MinedRow(NamedTuple):
    """The finds for a row: wrong answers, the hardest first, and the number of its cluster if it has one."""

    negatives: tuple[Item, ...]
    cluster: int | None


def read_mined_file(
    path: Path, root: Path, data: str, rows: str | None = None, ids: Collection[str] | None = None
) -> dict[str, MinedRow]:
    """Return what a mined file says, by row id.

    Args:
        path: the file.
        root: the data folder, in which its pictures are.
        data: the folder's fingerprint; a file that was mined from other data is refused.
        rows: "pairs", "triplets" or "texts"; a file for other rows is refused. None takes any.
        ids: the ids of the rows; a line for any other is refused. None takes any.

    Raises:
        DataError: no such file, no mined file, made for other data, or a line that is not as documented.
    """
    header, *lines = _objects(path)
    _check_header(header, path, root, data, rows)
    known = None if ids is None else set(ids)
    found: dict[str, MinedRow] = {}
    for number, line in enumerate(lines, start=2):
        where = f"{path}:{number}"
        name = line.get("id")
        if not isinstance(name, str) or (known is not None and name not in known):
            raise DataError(f"{where}: there is no row {json.dumps(name)} in {root}; mine again")
        if name in found:
            raise DataError(f'{where}: row "{name}" stands twice; mine again')
        found[name] = _read_row(line, root, where)
    return found


def _check_header(header: Mapping[str, Any], path: Path, root: Path, data: str, rows: str | None) -> None:
    if header.get("format") != MINED_FORMAT or "data" not in header:
        raise DataError(
            f"{path} is no mined file of format {MINED_FORMAT}: its first line must say what made it; mine again"
        )
    if header["data"] != data:
        raise DataError(f"{path} was mined from data other than {root} as it is now; mine again")
    if rows is not None and header.get("rows") != rows:
        raise DataError(f"{path} was mined for {header.get('rows')}, not for {rows}; mine again with --rows {rows}")


def _read_row(line: Mapping[str, Any], root: Path, where: str) -> MinedRow:
    cluster = line.get("cluster")
    if cluster is not None and (type(cluster) is not int or cluster < 0):  # a bool is an int, and no number here
        raise DataError(f'{where}: "cluster" must be a number from 0 on, not {json.dumps(cluster)}')
    negatives = line.get("negatives")
    if not isinstance(negatives, list):
        raise DataError(f'{where}: "negatives" must be a list')
    return MinedRow(tuple(_read_item(entry, root, where) for entry in negatives), cluster)


def write_mined_file(path: Path, header: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a mined file in one step; `header` needs "data" and "rows". Raises DataError when the disk fails."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        for line in chain([{"format": MINED_FORMAT, **header}], lines):
            file.write(json_bytes(line))


def written_item(item: Item, root: Path) -> dict[str, Any]:
    """Return a negative as a mined file names it. Raises DataError for a picture that is no file below `root`."""
    names = [_name_below(root, image) for image in item.images]
    entry: dict[str, Any] = {"image": names[0] if len(names) == 1 else names} if names else {}
    return entry | ({} if item.words is None else {"text": item.words})


def _name_below(root: Path, image: ImageLike) -> str:
    name = os.path.relpath(image, root) if isinstance(image, (str, os.PathLike)) else None
    if name is None or name.split(os.sep)[0] == os.pardir:
        raise DataError(f"a mined file names pictures by their path in {root}, and {image!r} is none there")
    return Path(name).as_posix()


def _read_item(entry: Any, root: Path, where: str) -> Document:
    names = _picture_names(entry)
    if names is None:
        raise DataError(f'{where}: a negative is an "image", a "text" or both, not {json.dumps(entry)[:60]}')
    for name in names:
        # a mined file from elsewhere must not make training read outside the data folder
        if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
            raise DataError(f'{where}: "{name}" must be a path inside {root}')
    pictures = tuple(root / name for name in names)
    image = (pictures if len(pictures) > 1 else pictures[0]) if pictures else None
    try:
        return Document(image=image, text=entry.get("text"))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _picture_names(entry: Any) -> list[str] | None:
    """Return the pictures that a negative names, None where it is not of the documented form."""
    if not isinstance(entry, dict) or not entry.keys() <= {"image", "text"}:
        return None
    names = entry.get("image", [])
    names = [names] if isinstance(names, str) else names
    fine = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    return names if fine else None


def _objects(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file, at least one. Raises DataError for anything else."""
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: make it with mllm-embed-train mine") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    lines = enumerate(text.split("\n"), start=1)
    found = [_object(line, f"{path}:{number}") for number, line in lines if line.strip()]
    if not found:
        raise DataError(f"{path} is empty; mine again")
    return found


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); mine again") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} must be a JSON object; mine again")
    return value
