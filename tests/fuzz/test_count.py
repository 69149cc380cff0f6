"""How many inputs there are, over all doors."""

from __future__ import annotations

import importlib
from collections.abc import Sized
from pathlib import Path

import pytest

WANTED = 2000


@pytest.mark.slow
def test_there_are_thousands_of_inputs() -> None:
    doors = sorted(
        path.stem for path in Path(__file__).parent.glob("test_*.py") if path.stem not in ("test_count", "test_harness")
    )
    counts: dict[str, int] = {}
    for door in doors:
        cases: Sized = importlib.import_module(f"fuzz.{door}").CASES
        counts[door] = len(cases)
    print(counts, sum(counts.values()))
    assert len(counts) >= 9 and min(counts.values()) >= 50
    assert sum(counts.values()) >= WANTED
