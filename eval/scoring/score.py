"""Vectors in, figures out: the exact ranking of every task under its views, whoever made the vectors."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from mllm_embed.errors import DataError
from mllm_embed.vectors.ranking import TargetRanks, ranks_among, ranks_of_targets, top_among, top_k

from .estimate import RESAMPLES, Estimate, estimate, means, resamples
from .suite import Suite, Task, View

Ties = Literal["gallery", "optimistic", "pessimistic"]
TIES: dict[str, str] = {
    "gallery": "equal scores are ranked in gallery order",
    "optimistic": "among equal scores the targets come first",
    "pessimistic": "among equal scores the targets come last",
}
ANSWERS = 10
SCORES = "inner product of the float32 vectors in float64, rounded to float32"


@dataclass(frozen=True)
class Vectors:
    """What one task is scored by.

    Attributes:
        gallery: [N, D] float32.
        rows: [Q, D] float32 by row of the table: the queries as asked first, then the baselines beside them.
    """

    gallery: np.ndarray
    rows: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class TaskResult:
    """What was measured on one task.

    Attributes:
        rows: row -> metric -> figure.
        groups: group -> metric -> figure, of the first row.
        values: metric -> [Q], of the first row.
        answers: [Q, <= 10] gallery positions of the first row, best first, -1 where there are fewer.
    """

    gallery: int
    queries: int
    dimensions: int | None
    rows: Mapping[str, Mapping[str, Estimate]]
    groups: Mapping[str, Mapping[str, Estimate]]
    values: Mapping[str, np.ndarray] = field(repr=False, compare=False)
    answers: np.ndarray = field(repr=False, compare=False)


Measured: TypeAlias = tuple[TaskResult, dict[str, dict[str, np.ndarray]]]


@dataclass(frozen=True)
class Result:
    """All that was measured on one suite, and by which rules; `parts`: what each mean is made of."""

    suite: str
    title: str
    fingerprint: str
    printed: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]]
    tasks: Mapping[str, TaskResult]
    means: Mapping[str, Mapping[str, Estimate]]
    protocol: Mapping[str, Any]
    spent: Mapping[str, float]

    def percent(self, metric: str, row: str | None = None, task: str = "") -> float:
        """One number of the table, of the first row unless another is named."""
        rows = self.tasks[task].rows
        return rows[row or next(iter(rows))][metric].percent

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the values of single queries."""
        return {
            "benchmark": {
                "name": self.suite,
                "title": self.title,
                "fingerprint": self.fingerprint,
                "printed": list(self.printed),
            },
            "tasks": {name: _task_dict(task) for name, task in self.tasks.items()},
            "means": _figures(self.means),
            "means of": {name: list(parts) for name, parts in self.parts.items()},
            "protocol": dict(self.protocol),
            "spent": dict(self.spent),
        }


def score(
    suite: Suite, vectors: Mapping[str, Vectors], ties: Ties = "gallery", spent: Mapping[str, float] | None = None
) -> Result:
    """Rank and measure.

    Args:
        suite: an opened benchmark.
        vectors: by task.
        ties: how equal scores are settled, a key of TIES.
        spent: seconds that making the vectors took, for the report.

    Raises:
        DataError: hidden labels, or vectors with NaN or of sizes that do not fit.
    """
    need_labels(suite)
    started = time.perf_counter()
    measured = {}
    for task in suite.tasks:
        made = _fitting(task, vectors)
        ranks = {
            row: [(view, ranks_of(view, queries, made.gallery)) for view in task.views]
            for row, queries in made.rows.items()
        }
        answers = answers_of(task.views[0], made.rows[task.asked], made.gallery, ANSWERS)
        measured[task.name] = measure(task, ranks, ties, answers, made.gallery.shape[1])
    cost = {
        **(spent or {}),
        "ranking seconds": time.perf_counter() - started,
        "index bytes": sum({id(made.gallery): made.gallery.nbytes for made in vectors.values()}.values()),
        "query bytes": sum(row.nbytes for made in vectors.values() for row in made.rows.values()),
        **_peak(),
    }
    return result_of(suite, measured, {"ties": TIES[ties], "scores": SCORES}, cost)


def _fitting(task: Task, vectors: Mapping[str, Vectors]) -> Vectors:
    """The task's vectors. Raises DataError where they are missing, or not one for each entry."""
    if task.name not in vectors:
        raise DataError(f"there are no vectors of task '{task.name}'; there are of {', '.join(vectors) or 'none'}")
    made = vectors[task.name]
    queries = [(row, matrix, task.queries) for row, matrix in made.rows.items()]
    for what, found, wanted in [("gallery", made.gallery, task.gallery), *queries]:
        if len(found) != len(wanted):
            raise DataError(f"task '{task.name}': {len(found)} {what} vectors for {len(wanted)} entries")
    return made


def score_rankings(suite: Suite, rankings: Mapping[str, Sequence[str]]) -> Result:
    """Measure ranked lists, such as a submission file holds, on a suite of one task.

    Args:
        suite: an opened benchmark.
        rankings: query id -> gallery ids, best first.

    Raises:
        DataError: hidden labels, several tasks; missing or unknown queries; a list that names an id twice, one that is
            not in the gallery or is excluded, or that is too short for a metric.
    """
    need_labels(suite)
    if len(suite.tasks) > 1:
        raise DataError(f"{suite.name} has {len(suite.tasks)} tasks: ranked lists serve benchmarks of one task")
    (task,) = suite.tasks
    lists = listed(task, rankings)
    ranks = [(view, _ranks_in(view, lists, task)) for view in task.views]
    answers = np.full((len(lists), ANSWERS), -1, dtype=np.int64)
    for row, found in enumerate(lists):
        answers[row, : len(found[:ANSWERS])] = found[:ANSWERS]
    measured = {task.name: measure(task, {task.asked: ranks}, "gallery", answers, None)}
    return result_of(suite, measured, {"scores": "none: ranked lists were given"}, {})


def listed(task: Task, rankings: Mapping[str, Sequence[str]]) -> list[list[int]]:
    """Ranked lists as gallery positions, in the order of the task's queries. Raises DataError as `score_rankings`."""
    unknown = sorted(set(rankings) - set(task.query_ids))
    lost = [name for name in task.query_ids if name not in rankings]
    if unknown or lost:
        wrong = f'"{unknown[0]}" is unknown' if unknown else f'"{lost[0]}" is missing ({len(lost)} in all)'
        raise DataError(f"the rankings must have one list for each of {len(task.query_ids)} query ids: {wrong}")
    lists = []
    for query in task.query_ids:
        names = [str(name) for name in rankings[query]]
        strange = next((name for name in names if name not in task.place), None)
        if strange is not None:
            raise DataError(f'the ranking of query "{query}" names "{strange}", which is not in the gallery')
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f'the ranking of query "{query}" names "{twice}" twice')
        lists.append([task.place[name] for name in names])
    return lists


def _ranks_in(view: View, lists: Sequence[Sequence[int]], task: Task) -> TargetRanks:
    """The ranks of a view's targets in ranked lists; a target that a list lacks comes last of all."""
    ranks = []
    for number, (found, targets) in enumerate(zip(lists, view.targets, strict=True)):
        if view.candidates is not None:
            allowed = set(view.candidates[number])
            found = [at for at in found if at in allowed]
            if len(found) < len(allowed):
                raise DataError(f'the ranking of query "{task.query_ids[number]}" lacks some of its candidates')
        if view.exclude is not None and set(found) & set(view.exclude[number]):
            raise DataError(f'the ranking of query "{task.query_ids[number]}" names a picture that is excluded')
        whole = len(task.gallery_ids) - (len(set(view.exclude[number])) if view.exclude is not None else 0)
        depths = [min(metric.depth or whole, whole) for metric in view.metrics]
        if view.candidates is None and len(found) < max(depths):
            raise DataError(
                f'the ranking of query "{task.query_ids[number]}" has {len(found)} entries; {max(depths)} are measured'
            )
        rank = {at: place for place, at in enumerate(found, start=1)}
        ranks.append(np.array([rank.get(at, len(task.gallery_ids)) for at in targets], dtype=np.int64))
    return TargetRanks(ranks, ranks, ranks)


def _peak() -> dict[str, float]:
    """The largest resident set of the process so far, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return {}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak memory bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def need_labels(suite: Suite) -> None:
    """Raises DataError where the labels are hidden."""
    if not suite.labelled:
        raise DataError(
            f"the labels of {suite.title} are hidden: write files for its server with `python -m eval submit`"
        )


def result_of(
    suite: Suite, measured: Mapping[str, Measured], rules: Mapping[str, str], spent: Mapping[str, float]
) -> Result:
    results = {name: result for name, (result, _) in measured.items()}
    rows = list(next(iter(results.values())).rows) if suite.means else []
    over = {row: _means(suite, measured, row) for row in rows}
    interval = f"95 %, percentiles of {RESAMPLES} bootstrap samples of the queries"
    protocol = {**suite.protocol, **rules, "interval": interval}
    parts = {mean.name: mean.parts for mean in suite.means}
    about = suite.name, suite.title, suite.fingerprint(), suite.printed, parts
    return Result(*about, results, over, protocol, spent)


def measure(
    task: Task,
    ranks: Mapping[str, Sequence[tuple[View, TargetRanks]]],
    ties: Ties,
    answers: np.ndarray,
    dimensions: int | None,
) -> Measured:
    """A task's result from the ranks of every row, and the bootstrap means by row and metric."""
    rows, samples = {}, {}
    everyone = np.arange(len(task.queries))
    for name, found in ranks.items():
        rows[name], samples[name], values = _figures_of(found, ties, everyone, task.name)
        if name == task.asked:
            kept = values
    groups = {
        group: _figures_of(ranks[task.asked], ties, members, task.name, task.by_group)[0]
        for group, members in _groups(task).items()
    }
    return TaskResult(len(task.gallery), len(task.queries), dimensions, rows, groups, kept, answers), samples


def ranks_of(view: View, queries: np.ndarray, gallery: np.ndarray) -> TargetRanks:
    """The ranks of a view's targets among what takes part in it."""
    if view.candidates is not None:
        return ranks_among(queries, gallery, view.targets, view.candidates)
    return ranks_of_targets(queries, gallery, view.targets, view.exclude)


def answers_of(view: View, queries: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """Gallery positions [Q, <= k] of a view's best answers, -1 where there are fewer."""
    if view.candidates is not None:
        return top_among(queries, gallery, k, view.candidates)[1]
    return top_k(queries, gallery, k, view.exclude)[1]


def _figures_of(
    ranks: Sequence[tuple[View, TargetRanks]],
    ties: Ties,
    members: np.ndarray,
    stream: str,
    names: tuple[str, ...] | None = None,
) -> tuple[dict[str, Estimate], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Figures, bootstrap means and values by metric over some of the queries; `names`: of these metrics only."""
    metrics, values, tied = [], [], []
    for view, found in ranks:
        for metric in view.metrics:
            if names is None or metric.name in names:
                by_rule = {rule: metric.values(getattr(found, rule))[members] for rule in TIES}
                metrics.append(metric)
                values.append(by_rule[ties])
                tied.append(by_rule["optimistic"] != by_rule["pessimistic"])
    drawn = resamples(np.stack(values, axis=1), stream)
    figures = {metric.name: estimate(metric, values[at], tied[at], drawn[:, at]) for at, metric in enumerate(metrics)}
    return (
        figures,
        {metric.name: drawn[:, at] for at, metric in enumerate(metrics)},
        {metric.name: values[at] for at, metric in enumerate(metrics)},
    )


def _groups(task: Task) -> dict[str, np.ndarray]:
    """Group -> positions of its queries, by name."""
    members: dict[str, list[int]] = {}
    for position, names in enumerate(task.groups):
        for name in names:
            members.setdefault(name, []).append(position)
    return {name: np.array(members[name]) for name in sorted(members)}


def _means(suite: Suite, measured: Mapping[str, Measured], row: str) -> dict[str, Estimate]:
    figures = {
        f"{name}/{metric}" if name else metric: (estimate, samples[row][metric])
        for name, (result, samples) in measured.items()
        for metric, estimate in result.rows[row].items()
    }
    return means(suite.means, figures)


def _task_dict(task: TaskResult) -> dict[str, Any]:
    return {
        "gallery": task.gallery,
        "queries": task.queries,
        "dimensions": task.dimensions,
        "rows": _figures(task.rows),
        "groups": _figures(task.groups),
    }


def _figures(rows: Mapping[str, Mapping[str, Estimate]]) -> dict[str, dict[str, Any]]:
    return {name: {metric: estimate.to_dict() for metric, estimate in row.items()} for name, row in rows.items()}
