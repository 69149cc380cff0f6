"""The composition audit of several results together, and the lists of queries that it makes.

CIRCUS (Attimonelli et al., arXiv 2605.14787) calls a query solvable by a shortcut where a half alone finds it for any
of its eleven models, all at K = 10; composition required where only whole queries find it; and unresolved where
nothing does. `pool` does that with the results it is given, at any metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np

from mllm_embed.errors import ConfigError, DataError

from ..scoring.composition import HALVES, LABELS, NEITHER, labels_of
from ..scoring.suite import column
from .composition import FOUND_BY
from .gaps import seeds_of_run
from .query_lists import write_query_list
from .saved_result import AGAIN, SavedResult
from .tables import Block, ReportTable

REQUIRED, UNRESOLVED = "composition required", "unresolved"
_ABOUT = {
    REQUIRED: "of these: composition required, some whole query finds it",
    UNRESOLVED: "of these: unresolved, no whole query finds it",
}


@dataclass(frozen=True)
class PooledTask:
    """The audit of a task over several results.

    Attributes:
        metric: by which a query counts as found.
        ids: of its queries.
        found: name of a set of queries -> which they are [Q] bool: LABELS, then REQUIRED and UNRESOLVED.
        composed: which the whole query of any result finds [Q] bool.
    """

    metric: str
    ids: Sequence[str]
    found: Mapping[str, np.ndarray]
    composed: np.ndarray


def pool(results: Sequence[SavedResult], at: str | None = None) -> dict[str, PooledTask]:
    """Return by task what any of the results finds.

    Args:
        results: of one benchmark by one protocol, with both halves.
        at: the metric; None for the first that each task is audited by.

    Raises:
        DataError: results of different protocols or queries, or without halves. ConfigError: an unknown metric, or one
            that does not say whether a query is found.
    """
    runs = [seed for result in results for seed in seeds_of_run(result)]
    first = runs[0]
    for run in runs:
        if run.protocol != first.protocol:
            raise DataError(f"{run.folder} is of another benchmark or protocol than {first.folder}: audit them apart")
        if run.per_query is None or not run.per_query.halves:
            raise DataError(f"{run.folder} does not say what the halves of its queries find: {AGAIN}")
        if first.per_query is None or run.per_query.ids != first.per_query.ids:
            raise DataError(f"the query ids in {run.folder} and {first.folder} differ: {AGAIN}")
    return {task: _task(task, at or metrics[0], runs) for task, metrics in first.audited.items()}


def _task(task: str, metric: str, runs: Sequence[SavedResult]) -> PooledTask:
    name = column(task, metric)
    _check_metric(task, metric, runs[0])
    queries = [run.per_query for run in runs if run.per_query is not None]
    halves = [own.halves for own in queries]
    image, text = (_best(list(map(itemgetter(row), halves)), name) for row in HALVES)
    labels = labels_of(image, text)
    composed = _best([own.values for own in queries], name) > 0
    found = {label: labels == label for label in LABELS}
    found |= {REQUIRED: found[NEITHER] & composed, UNRESOLVED: found[NEITHER] & ~composed}
    return PooledTask(metric, queries[0].ids[task], found, composed)


def _check_metric(task: str, metric: str, run: SavedResult) -> None:
    """Raise ConfigError unless a metric of a task says whether a query is found."""
    known = [other for own, other in run.columns.values() if own == task]
    finds = [other for other in known if _tells_found(other, run)]
    if metric not in finds:
        why = "says nothing of what is found among the first K" if metric in known else "is no metric here"
        raise ConfigError(f"--at: '{metric}' {why}; there are {', '.join(finds)}")


def _tells_found(metric: str, run: SavedResult) -> bool:
    """Return whether a query is found where a metric is above 0: not by MRR, which looks at all answers and never is 0,
    nor by what counts wrong ones."""
    return "@" in metric and metric not in (*run.lower, *run.whole)


def _best(values: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    """Return the most [Q] that any of several results has in a column."""
    return np.max([own[name] for own in values], axis=0)


def audit_blocks(results: Sequence[SavedResult], pooled: Mapping[str, PooledTask]) -> list[Block]:
    """Return the audit as a table for each task."""
    count = sum(len(seeds_of_run(result)) for result in results)
    many = f"any of {count} results" if count > 1 else "the result"
    blocks: list[Block] = []
    for task, own in pooled.items():
        where = f"{results[0].title}{f', {task}' if task else ''}"
        blocks.append(f"{where}: {len(own.ids):,} queries, by what {many} finds at {own.metric}.")
        rows = []
        for name, members in own.found.items():
            hits = f"{100 * own.composed[members].mean():.2f}" if members.any() else "–"
            share = f"{100 * members.mean():.2f}"
            rows.append([{**FOUND_BY, **_ABOUT}[name], f"{members.sum():,}", share, hits])
        blocks.append(ReportTable(["found by", "queries", "% of all", "% that a whole query finds"], rows))
    return blocks


def write_lists(pooled: Mapping[str, PooledTask], folder: Path) -> dict[Path, int]:
    """Write a list of queries for each label, as --only reads it, and return how many each has.

    One without queries is not written, and one of an earlier audit in its place is removed. Raises DataError where a
    file cannot be written.
    """
    written = {}
    for name in next(iter(pooled.values())).found:
        ids = {}
        for task, own in pooled.items():
            ids[task] = [query for query, member in zip(own.ids, own.found[name], strict=True) if member]
        path = folder / f"{name.replace(' ', '-')}.txt"
        if any(ids.values()):
            written[path] = write_query_list(path, ids)
        else:
            path.unlink(missing_ok=True)
    return written
