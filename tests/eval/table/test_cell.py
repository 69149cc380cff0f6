"""What a table reads of a finished cell beside its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.table.cell import read_halves

ROWS = ("composed", "image only", "text only", "sum")


def figures(*metrics: str) -> dict[str, Any]:
    return {row: {metric: {"percent": 10.0 * at} for metric in metrics} for at, row in enumerate(ROWS)}


def audits(**points: float) -> dict[str, Any]:
    return {metric: {"gap": {"percent": gap, "low": gap - 1, "high": gap + 1}} for metric, gap in points.items()}


@pytest.mark.parametrize("headline", ["found@10/at the end", "turn-2/R1"])
def test_a_gap_is_called_after_the_task_that_it_is_of(headline: str, tmp_path: Path) -> None:
    tasks = {
        "turn-1": {"rows": figures("R1", "R5"), "composition": audits(R1=1.0, R5=2.0)},
        "turn-2": {"rows": figures("R1", "R5"), "composition": audits(R1=3.0, R5=4.0)},
        "found@10": {"rows": figures("at the end")},
    }
    (tmp_path / "result.json").write_text(json.dumps({"tasks": tasks, "means": {}}))
    found = read_halves(tmp_path, headline)
    assert found.rows == {"image only": 10.0, "text only": 20.0, "sum": 30.0}
    own = {"R1": (3.0, 2.0, 4.0), "R5": (4.0, 3.0, 5.0)}  # the headline's own task needs no name
    turns = {"turn-1/R1": (1.0, 0.0, 2.0), "turn-2/R1": (3.0, 2.0, 4.0)}
    assert found.gaps == (own if headline.startswith("turn-2") else turns)
