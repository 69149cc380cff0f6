"""Triplets of the data folder, written anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def triplets(data: Path) -> Callable[[list[dict[str, Any]]], None]:
    """Writes the triplets of the data folder: the keys that matter of each."""

    def write(rows: list[dict[str, Any]]) -> None:
        whole = ({"id": f"t{number}", "instruction": "make it red", **row} for number, row in enumerate(rows))
        (data / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in whole))

    return write
