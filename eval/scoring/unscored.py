"""Answers where the labels are hidden, as a result without figures: what a report can still show."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .result import MeasuredTask, Result, TaskResult
from .score import ANSWERS, DEFAULT_TIES, SCORES, TIES, Vectors, answers_of, result_of
from .suite import Suite, Task, View


def unscored(suite: Suite, vectors: Mapping[str, Vectors]) -> Result:
    """Return the first answers of every row, equal scores in gallery order.

    Args:
        suite: whose labels only a server knows.
        vectors: by task.

    Raises:
        DataError: vectors with NaN or of sizes that do not fit.
    """
    tasks = {task.name: MeasuredTask(_answered(task, vectors[task.name]), {}) for task in suite.tasks}
    return result_of(suite, tasks, {"ties": TIES[DEFAULT_TIES], "scores": SCORES}, {})


def _answered(task: Task, vectors: Vectors) -> TaskResult:
    rows = vectors.rows
    view = task.views[0] if task.views else View((), [()] * len(task.queries))
    return TaskResult(
        gallery=len(task.gallery),
        queries=len(task.queries),
        dimensions=vectors.gallery.shape[1],
        rows={row: {} for row in rows},
        groups={},
        row_values={row: {} for row in rows},
        row_answers={row: answers_of(view, queries, vectors.gallery, ANSWERS) for row, queries in rows.items()},
        row_ranks={row: np.zeros(len(task.queries), np.int64) for row in rows},
    )
