"""What carrying the past gains: each rule, at the end of the sessions, beside forgetting it, query by query."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..paired import Difference, corrected, paired
from ..result import Result
from ..suite import Suite, Task
from .carried import ways
from .found import AT_THE_END, found_tasks


def with_gains(result: Result, suite: Suite) -> Result:
    """Return a result with the gains of its rules; without sessions, or rules, it has none."""
    gains = {task.name: _gains(task, result) for task in found_tasks(suite) if task.name in result.tasks}
    return replace(result, gains_of_rules={name: rows for name, rows in gains.items() if rows})


def _gains(task: Task, result: Result) -> dict[str, Difference]:
    """Return what each rule has more than the last turn alone by the same protocol; p is corrected for the rules."""
    values = {row: metrics[AT_THE_END] for row, metrics in result.tasks[task.name].row_values.items()}
    tested = {way.row: way.forgetting or task.query_kind for way in ways() if way.row in values and way.carries}
    if not tested:
        return {}
    differences = np.stack([values[row] - values[other] for row, other in tested.items()], axis=1)
    return dict(zip(tested, corrected(paired([differences], [task.references])), strict=True))
