"""A suite as files of rows, which `mllm-embed encode` embeds as `evaluate` would."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError
from mllm_embed.files import json_bytes, write_file
from mllm_embed.types import Item

from .suite import Suite, Task

GALLERY, QUERIES = "gallery.jsonl", "queries.jsonl"
_OTHERWISE = "`mllm-embed-eval run ... --save-vectors` embeds it"


def write_rows(suite: Suite, folder: Path) -> dict[Path, int]:
    """Write the gallery and the queries of each task, and return how many rows each file has.

    A task whose gallery is that of the first one has none of its own where the first one's serves all.

    Raises DataError for what no row means, and where the disk fails; then nothing is written.
    """
    files: dict[Path, list[dict[str, str]]] = {}
    for task in suite.tasks:
        if task.insists:
            raise DataError(f"an option asks {suite.title} in words of its own, which no row has: {_OTHERWISE}")
        if not _shares(task, suite.tasks[0]):
            files[folder / task.name / GALLERY] = _rows(task, task.gallery_ids, [(item,) for item in task.gallery])
        files[folder / task.name / QUERIES] = _rows(task, task.query_ids, task.queries)
    for path, rows in files.items():
        write_file(path, b"".join(map(json_bytes, rows)))
    return {path: len(rows) for path, rows in files.items()}


def words_of_its_own(suite: Suite) -> str:
    """Return a sentence about queries that `evaluate` may ask otherwise than rows are asked; empty for none."""
    names = [task.name or "the benchmark" for task in suite.tasks if task.prompts or task.tasks]
    if not names:
        return ""
    return (
        f"the queries of {', '.join(names)} are asked in words of the benchmark, or with its instruction, by `run`, "
        f"and in the model's own by `mllm-embed encode`, so that figures may differ: {_OTHERWISE}"
    )


def _shares(task: Task, first: Task) -> bool:
    return task is not first and not first.name and task.gallery is first.gallery


def _rows(task: Task, ids: Sequence[str], items: Sequence[Sequence[Item]]) -> list[dict[str, str]]:
    rows = []
    for name, several in zip(ids, items, strict=True):
        try:
            if len(several) > 1:
                raise DataError("is asked in several wordings")
            rows.append({"id": name, **_row(several[0])})
        except DataError as error:
            where = f"task {task.name}: " if task.name else ""
            raise DataError(f'{where}"{name}" {error}, for which a file has no row: {_OTHERWISE}') from error
    return rows


def _row(item: Item) -> dict[str, str]:
    """Return an item as `mllm_embed.data.sources` reads it back. Raises DataError, without its name, where none is."""
    row: dict[str, str] = {}
    if len(item.images) > 1:
        raise DataError("has several pictures")
    if item.images:
        row["image"] = _path(item.images[0])
    if item.side == "query":
        # a row without an instruction is one to be found; words alone are asked alike, whatever they are called
        if item.words is None:
            raise DataError("is a picture that asks alone")
        row["instruction"] = item.words
        if item.text is not None and item.text != item.words:
            row["text"] = item.text
        if item.avoid is not None:
            row["avoid"] = item.avoid
    elif item.words is not None:
        row["text"] = item.words
    return row


def _path(image: Any) -> str:
    if not isinstance(image, (str, os.PathLike)):
        raise DataError("is a part of a picture")
    return os.path.abspath(image)
