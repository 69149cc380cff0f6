"""All that was measured on a suite, as data: what reports, comparisons and cards are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .composition import Composition, Gap
from .estimate import Estimate
from .paired import Difference
from .sessions.found import TurnsToFind


@dataclass(frozen=True)
class TaskResult:
    """All that was measured on one task.

    Attributes:
        gallery, queries: how many there are.
        dimensions: of the vectors; None where ranked lists were given.
        rows: row -> metric -> estimate.
        groups: group -> metric -> estimate, of the first row.
        composition: metric -> its audit, the benchmark's own K first; empty where no half was asked.
        row_values: row -> metric -> [Q].
        row_answers: row -> [Q, <= 10] gallery positions, best first, -1 where there are fewer.
        row_ranks: row -> [Q] int64, from 1, of the best placed target of the first view; 0 where there is none, or a
            given list lacks it.
    """

    gallery: int
    queries: int
    dimensions: int | None
    rows: Mapping[str, Mapping[str, Estimate]]
    groups: Mapping[str, Mapping[str, Estimate]]
    row_values: Mapping[str, Mapping[str, np.ndarray]] = field(repr=False, compare=False)
    row_answers: Mapping[str, np.ndarray] = field(repr=False, compare=False)
    row_ranks: Mapping[str, np.ndarray] = field(repr=False, compare=False)
    composition: Mapping[str, Composition] = field(default_factory=dict)

    @property
    def values(self) -> Mapping[str, np.ndarray]:
        """Metric -> [Q], of the first row."""
        return next(iter(self.row_values.values()))

    @property
    def answers(self) -> np.ndarray:
        """[Q, <= 10] gallery positions of the first row."""
        return next(iter(self.row_answers.values()))


@dataclass(frozen=True)
class MeasuredTask:
    """A task's result, and what its intervals come from: row -> metric -> bootstrap means [B]."""

    result: TaskResult
    samples: Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Result:
    """All that was measured on one suite, and by which rules.

    Attributes:
        suite, title, fingerprint, printed: of the suite.
        parts: mean -> what it is made of.
        tasks: by name.
        means: row -> mean -> estimate.
        gaps: mean -> composition gap, of the means over audited metrics.
        protocol: the rules in words.
        spent: seconds and bytes.
        turns: task that counts what sessions find by turn -> row -> in how many turns they find it; empty without any.
        lower: metrics of which a smaller value is better.
        whole: metrics that say something of all queries of a task together, and nothing of some of them.
        gains_of_rules: the same task -> row of a rule -> what it gains at the end over the last turn alone.
    """

    suite: str
    title: str
    fingerprint: str
    printed: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]]
    tasks: Mapping[str, TaskResult]
    means: Mapping[str, Mapping[str, Estimate]]
    protocol: Mapping[str, Any]
    spent: Mapping[str, float]
    turns: Mapping[str, Mapping[str, TurnsToFind]] = field(default_factory=dict)
    gaps: Mapping[str, Gap] = field(default_factory=dict)
    lower: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    gains_of_rules: Mapping[str, Mapping[str, Difference]] = field(default_factory=dict)

    def percent(self, metric: str, row: str | None = None, task: str = "") -> float:
        """Return one number of the table, in percent, of the first row unless another is named."""
        rows = self.tasks[task].rows
        return rows[row or next(iter(rows))][metric].percent

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the values of single queries."""
        turns: dict[str, dict[str, Any]] = {}
        for task, rows in self.turns.items():
            turns[task] = {row: own.to_dict() for row, own in rows.items()}
        gains: dict[str, dict[str, Any]] = {}
        for task, found in self.gains_of_rules.items():
            gains[task] = {row: asdict(own) for row, own in found.items()}
        return {
            "benchmark": {
                "name": self.suite,
                "title": self.title,
                "fingerprint": self.fingerprint,
                "printed": list(self.printed),
                **({"lower is better": list(self.lower)} if self.lower else {}),
                **({"of all queries alone": list(self.whole)} if self.whole else {}),
            },
            "tasks": {name: _task_dict(task) for name, task in self.tasks.items()},
            "means": _estimate_dicts(self.means),
            "means of": {name: list(parts) for name, parts in self.parts.items()},
            "composition": {name: gap.to_dict() for name, gap in self.gaps.items()},
            "protocol": dict(self.protocol),
            "spent": dict(self.spent),
            **({"turns to find": turns} if turns else {}),
            **({"gains of rules": gains} if gains else {}),
        }


def _task_dict(task: TaskResult) -> dict[str, Any]:
    return {
        "gallery": task.gallery,
        "queries": task.queries,
        "dimensions": task.dimensions,
        "rows": _estimate_dicts(task.rows),
        "groups": _estimate_dicts(task.groups),
        "composition": {metric: own.to_dict() for metric, own in task.composition.items()},
    }


def _estimate_dicts(rows: Mapping[str, Mapping[str, Estimate]]) -> dict[str, dict[str, Any]]:
    dicts: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        dicts[name] = {metric: own.to_dict() for metric, own in row.items()}
    return dicts
