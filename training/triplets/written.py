"""The files of made triplets: triplets.jsonl, which never takes the place of one from elsewhere, and the report."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mllm_embed.data.folder import FILES, TRIPLETS
from mllm_embed.errors import DataError
from mllm_embed.files import read_json, write_file, write_json

OUTPUT, REPORT, CACHE = TRIPLETS, "triplets.report.json", "triplets.cache.jsonl"


def own_triplets(root: Path, mark: str) -> str | None:
    """Return the sha256 of the triplets.jsonl that an earlier run left, whose report has the key `mark`.

    Raises DataError for one from elsewhere: written by people, changed since, or made by another command.
    """
    file = root / OUTPUT
    if not file.exists():
        return None
    found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    report = read_json(root / REPORT, "remove it") if (root / REPORT).is_file() else {}
    ours = isinstance(report, dict) and mark in report and found in (report.get("sha256"), report.get("replaced"))
    if not ours:
        raise DataError(
            f"{file} was not made by this command, or was changed since, and stays as it is: give another folder with "
            "--output; a recipe's `data` takes both, as a list"
        )
    return found


def check_alone(root: Path, start: str) -> None:
    """Raise DataError where other files of a data folder lie in `root`, whose pictures have names of their own.

    `start` is the folder that the names of the triplets' pictures start from.
    """
    if os.path.realpath(start) == os.path.realpath(root):
        return
    for file in (root / name for name in FILES if name != OUTPUT):
        if file.exists():
            raise DataError(
                f"{file} names pictures of {root}, and those of the triplets lie in {start}: give a folder of their "
                "own with --output"
            )


def write_triplets(
    root: Path, rows: Iterable[Mapping[str, Any]], report: Mapping[str, Any], replaced: str | None
) -> None:
    """Write the triplets and the report; `replaced` is the sha256 of the file that they take the place of."""
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    made = hashlib.sha256(content).hexdigest()
    sums = {"sha256": made, "replaced": replaced if replaced != made else None}
    # first, with both sums: killed between the two files, the next run still knows the older one as ours
    write_json(root / REPORT, {**report, **sums})
    write_file(root / OUTPUT, content)
