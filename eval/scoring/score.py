"""Vectors in, estimates out: the exact ranking of every task under its views, whoever made the vectors."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from mllm_embed.errors import DataError
from mllm_embed.vectors.ranking import TargetRanks, ranks_among, ranks_of_targets, top_among, top_k

from .composition import HALVES, LABELS_RULE, Gap, audited_means, compose, mean_gap
from .estimate import INTERVAL_RULE, Estimate, Sampled, estimate, means, resamples
from .metrics import Metric
from .result import MeasuredTask, Result, TaskResult
from .sessions.found import Ranked, found_ranks, found_tasks, turns_to_find
from .suite import Suite, Task, View, column

RankedView: TypeAlias = tuple[View, TargetRanks]
Ties = Literal["gallery", "optimistic", "pessimistic"]
TIES: dict[str, str] = {
    "gallery": "equal scores are ranked in gallery order",
    "optimistic": "among equal scores the targets come first",
    "pessimistic": "among equal scores the targets come last",
}
DEFAULT_TIES: Ties = "gallery"
ANSWERS = 10  # kept for reports; metrics read the targets' ranks, which know the whole gallery
# Rounded, so that a score depends on its two vectors alone: not on batch, BLAS or threads, which decide last bits.
SCORES = "inner product of the float32 vectors in float64, rounded to float32"


@dataclass(frozen=True)
class Vectors:
    """The vectors that one task is scored by.

    Attributes:
        gallery: [N, D] float32.
        rows: [Q, D] float32 by row of the table: the queries as asked first, then the baselines beside them.
    """

    gallery: np.ndarray
    rows: Mapping[str, np.ndarray]

    def of(self, members: Sequence[int]) -> Vectors:
        """Return the vectors of some of the queries, by their positions, with the whole gallery."""
        return Vectors(self.gallery, {row: queries[members] for row, queries in self.rows.items()})


def score(
    suite: Suite, vectors: Mapping[str, Vectors], ties: Ties = DEFAULT_TIES, spent: Mapping[str, float] | None = None
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
    ranked = {task.name: _ranked(task, _fitting(task, vectors)) for task in suite.tasks}
    measured = {task.name: _measured(task, ranked[task.name], vectors[task.name], ties) for task in suite.tasks}
    turns = {}
    for task in found_tasks(suite):
        own = _measured(task, found_ranks(task, suite, ranked), vectors[suite.turns[0]], ties)
        measured[task.name] = own
        turns[task.name] = turns_to_find(task, suite, own.result.row_values)
    # tasks of one gallery share its matrix, which an index would hold once
    galleries = {id(own.gallery): own.gallery.nbytes for own in vectors.values()}
    queries = [row.nbytes for own in vectors.values() for row in own.rows.values()]
    cost = {
        **(spent or {}),
        "ranking seconds": time.perf_counter() - started,
        "index bytes": sum(galleries.values()),
        "query bytes": sum(queries),
        **_peak(),
    }
    return replace(result_of(suite, measured, {"ties": TIES[ties], "scores": SCORES}, cost), turns=turns)


def _ranked(task: Task, vectors: Vectors) -> Ranked:
    """Return for each row of the table the ranks of the targets, and the first answers."""
    ranks: dict[str, list[RankedView]] = {}
    answers: dict[str, np.ndarray] = {}
    # All rows are ranked under the same views: a baseline differs by its vectors, never by a rule.
    for row, queries in vectors.rows.items():
        ranks[row] = [(view, ranks_of(view, queries, vectors.gallery)) for view in task.views]
        answers[row] = answers_of(task.views[0], queries, vectors.gallery, ANSWERS)
    return ranks, answers


def _measured(task: Task, ranked: Ranked, vectors: Vectors, ties: Ties) -> MeasuredTask:
    ranks, answers = ranked
    return measure(task, ranks, ties, answers, vectors.gallery.shape[1])


def _fitting(task: Task, vectors: Mapping[str, Vectors]) -> Vectors:
    """Return the task's vectors. Raise DataError where they are missing, or not one for each entry."""
    if task.name not in vectors:
        raise DataError(f"there are no vectors of task '{task.name}'; there are of {', '.join(vectors) or 'none'}")
    own = vectors[task.name]
    sizes = [("gallery", len(own.gallery), len(task.gallery))]
    sizes += [(row, len(matrix), len(task.queries)) for row, matrix in own.rows.items()]
    for what, found, wanted in sizes:
        if found != wanted:
            raise DataError(f"task '{task.name}': {found} {what} vectors for {wanted} entries")
    return own


def _peak() -> dict[str, float]:
    """Return the largest resident set of the process so far, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return {}
    # macOS counts bytes, Linux kibibytes
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak memory bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def need_labels(suite: Suite) -> None:
    """Raise DataError where the labels are hidden."""
    if not suite.labelled:
        raise DataError(
            f"the labels of {suite.title} are hidden: write files for its server with `mllm-embed-eval submit`"
        )


def result_of(
    suite: Suite, measured: Mapping[str, MeasuredTask], rules: Mapping[str, str], spent: Mapping[str, float]
) -> Result:
    """Put the measured tasks of a suite together.

    Args:
        suite: an opened benchmark.
        measured: by task.
        rules: how its scores were made and ties settled, for the protocol.
        spent: seconds and bytes, for the report.
    """
    tasks = {name: task.result for name, task in measured.items()}
    # a suite with means asks in one way; of given vectors a task may have rows that another has not
    rows = list(next(iter(tasks.values())).rows) if suite.means else []
    for task in tasks.values():
        rows = [row for row in rows if row in task.rows]
    sampled = {row: _means(suite, measured, row) for row in rows}
    means: dict[str, dict[str, Estimate]] = {}
    for row, found in sampled.items():
        means[row] = {name: own for name, (own, _) in found.items()}
    return Result(
        suite=suite.name,
        title=suite.title,
        fingerprint=suite.fingerprint(),
        printed=suite.printed,
        parts={mean.name: mean.parts for mean in suite.means},
        tasks=tasks,
        means=means,
        protocol={**suite.protocol, **rules, "interval": INTERVAL_RULE, **_audit_rule(tasks.values())},
        spent=spent,
        gaps=_gaps(suite, sampled),
        lower=_named(suite, lambda metric: metric.lower),
        whole=_named(suite, lambda metric: metric.whole),
    )


def _named(suite: Suite, fits: Callable[[Metric], bool]) -> tuple[str, ...]:
    """Return the names of the metrics of a suite that fit."""
    metrics = (metric for task in suite.tasks for view in task.views for metric in view.metrics)
    return tuple(dict.fromkeys(metric.name for metric in metrics if fits(metric)))


def _audit_rule(tasks: Iterable[TaskResult]) -> dict[str, str]:
    return {"composition": LABELS_RULE} if any(task.composition for task in tasks) else {}


def _gaps(suite: Suite, means: Mapping[str, Mapping[str, Sampled]]) -> dict[str, Gap]:
    """Return the composition gaps of the means over audited metrics, where both halves were asked."""
    kind = suite.tasks[0].query_kind
    if not {kind, *HALVES} <= set(means):
        return {}
    gaps = {}
    for name in audited_means(suite.means, suite.tasks):
        figures = {row: (own[name][0].percent, own[name][1]) for row, own in means.items()}
        gaps[name] = mean_gap(figures, kind)
    return gaps


def measure(
    task: Task,
    ranks: Mapping[str, Sequence[RankedView]],
    ties: Ties,
    answers: Mapping[str, np.ndarray],
    dimensions: int | None,
) -> MeasuredTask:
    """Return what the metrics of a task's views say of ranks.

    Args:
        task: with labels.
        ranks: row of the table -> each view with its targets' ranks; the queries as asked first.
        ties: how equal scores are settled.
        answers: row -> [Q, <= 10] int64 gallery positions, for the report.
        dimensions: of the vectors, for the report; None where there are none.
    """
    readings = {row: _read(views, ties) for row, views in ranks.items()}
    estimates, samples = {}, {}
    for row, read in readings.items():
        estimates[row], samples[row] = _estimates(read, task.name, task.references)
    own = readings[task.query_kind]
    by_group = [reading for reading in own if reading.metric.name in task.by_group]
    groups = {}
    for group, members in _groups(task).items():
        groups[group], _ = _estimates(
            [reading.of(members) for reading in by_group], task.name, task.references[members]
        )
    values = {row: _values(read) for row, read in readings.items()}
    result = TaskResult(
        gallery=len(task.gallery),
        queries=len(task.queries),
        dimensions=dimensions,
        rows=estimates,
        groups=groups,
        row_values=values,
        row_answers=answers,
        composition=compose(task, values),
        # the first view's, by which the answers are ranked too
        row_ranks={row: best_ranks(getattr(views[0][1], ties)) for row, views in ranks.items()},
    )
    return MeasuredTask(result, samples)


def best_ranks(ranks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the rank [Q] int64 of each query's best placed target, by the ranks of them all; 0 for no targets."""
    return np.array([row.min() if row.size else 0 for row in ranks], dtype=np.int64)


def ranks_of(view: View, queries: np.ndarray, gallery: np.ndarray) -> TargetRanks:
    """Return the ranks of a view's targets among what takes part in it, for queries [Q, D] and a gallery [N, D]."""
    if view.candidates is not None:
        return ranks_among(queries, gallery, view.targets, view.candidates)
    # What is excluded does not take part at all: it is not merely skipped among the answers, and so moves no rank.
    return ranks_of_targets(queries, gallery, view.targets, view.exclude)


def answers_of(view: View, queries: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """Return the gallery positions [Q, <= k] int64 of a view's best answers, -1 where there are fewer."""
    if view.candidates is not None:
        return top_among(queries, gallery, k, view.candidates)[1]
    return top_k(queries, gallery, k, view.exclude)[1]


@dataclass(frozen=True)
class _Reading:
    """One metric's value for each query [Q], and for which queries it hangs on the order of equal scores [Q] bool."""

    metric: Metric
    values: np.ndarray
    tied: np.ndarray

    def of(self, members: np.ndarray) -> _Reading:
        """Return the reading of some of the queries."""
        return _Reading(self.metric, self.values[members], self.tied[members])


def _read(views: Sequence[RankedView], ties: Ties) -> list[_Reading]:
    readings = []
    for view, ranks in views:
        for metric in view.metrics:
            by_rule = {rule: metric.values(getattr(ranks, rule)) for rule in TIES}
            # The two extreme rules bound all others: where they agree, no order of equal scores changes the value.
            tied = by_rule["optimistic"] != by_rule["pessimistic"]
            readings.append(_Reading(metric, by_rule[ties], tied))
    return readings


def _values(readings: Sequence[_Reading]) -> dict[str, np.ndarray]:
    return {reading.metric.name: reading.values for reading in readings}


def _estimates(
    readings: Sequence[_Reading], stream: str, references: np.ndarray
) -> tuple[dict[str, Estimate], dict[str, np.ndarray]]:
    """Return the estimate and the bootstrap means [B] of each metric, by its name."""
    # All metrics are drawn at once, so that they share their samples, and means over them have an interval.
    drawn = resamples(np.stack([reading.values for reading in readings], axis=1), stream, references)
    estimates, samples = {}, {}
    for number, reading in enumerate(readings):
        name = reading.metric.name
        samples[name] = drawn[:, number]
        estimates[name] = estimate(reading.metric, reading.values, reading.tied, samples[name])
    return estimates, samples


def _groups(task: Task) -> dict[str, np.ndarray]:
    """Return the positions of each group's queries, groups in the order of their names."""
    members: dict[str, list[int]] = {}
    for position, names in enumerate(task.groups):
        for name in names:
            members.setdefault(name, []).append(position)
    return {name: np.array(members[name]) for name in sorted(members)}


def _means(suite: Suite, measured: Mapping[str, MeasuredTask], row: str) -> dict[str, Sampled]:
    known = {}
    for task, found in measured.items():
        for metric, own in found.result.rows[row].items():
            known[column(task, metric)] = own, found.samples[row][metric]
    return means(suite.means, known)
