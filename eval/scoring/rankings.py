"""Ranked lists that somebody has made, such as a file for a server, measured as vectors are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mllm_embed.errors import DataError
from mllm_embed.vectors.ranking import TargetRanks

from .result import Result
from .score import ANSWERS, DEFAULT_TIES, measure, need_labels, result_of
from .suite import Suite, Task, View


def score_rankings(suite: Suite, rankings: Mapping[str, Sequence[str]]) -> Result:
    """Measure ranked lists on a suite of one task.

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
    lists = _positions(task, rankings)
    ranks = [(view, _ranks(view, lists, task)) for view in task.views]
    answers = np.full((len(lists), ANSWERS), -1, dtype=np.int64)
    for row, ranked in enumerate(lists):
        # a list may be shorter than a report shows
        answers[row, : len(ranked[:ANSWERS])] = ranked[:ANSWERS]
    kind = task.query_kind
    measured = measure(task, {kind: ranks}, DEFAULT_TIES, {kind: answers}, None)
    found = replace(measured.result, row_ranks={kind: _found(measured.result.row_ranks[kind], lists, task)})
    measured = replace(measured, result=found)
    return result_of(suite, {task.name: measured}, {"scores": "none: ranked lists were given"}, {})


def _positions(task: Task, rankings: Mapping[str, Sequence[str]]) -> list[list[int]]:
    """Return the lists as gallery positions, in the order of the task's queries."""
    unknown = sorted(set(rankings) - set(task.query_ids))
    missing = [name for name in task.query_ids if name not in rankings]
    if unknown or missing:
        wrong = f'"{unknown[0]}" is unknown' if unknown else f'"{missing[0]}" is missing ({len(missing)} in all)'
        raise DataError(f"the rankings must have one list for each of {len(task.query_ids)} query ids: {wrong}")
    return [_list_positions(task, query, list(map(str, rankings[query]))) for query in task.query_ids]


def _list_positions(task: Task, query: str, names: list[str]) -> list[int]:
    stranger = next((name for name in names if name not in task.positions), None)
    if stranger is not None:
        raise DataError(f'the ranking of query "{query}" names "{stranger}", which is not in the gallery')
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f'the ranking of query "{query}" names "{twice}" twice')
    return [task.positions[name] for name in names]


def _found(ranks: np.ndarray, lists: Sequence[Sequence[int]], task: Task) -> np.ndarray:
    """Return the ranks [Q] with 0 where a list has none of the targets, whose place in it nobody knows."""
    targets = task.views[0].targets
    known = [not set(own).isdisjoint(ranked) for own, ranked in zip(targets, lists, strict=True)]
    return np.where(known, ranks, 0)


def _ranks(view: View, lists: Sequence[Sequence[int]], task: Task) -> TargetRanks:
    # A list has settled its ties itself, so that all three rules give the same ranks.
    ranks = [_query_ranks(view, number, ranked, task) for number, ranked in enumerate(lists)]
    return TargetRanks(ranks, ranks, ranks)


def _query_ranks(view: View, number: int, ranked: Sequence[int], task: Task) -> np.ndarray:
    """Return the ranks [T] int64 of a query's targets in its list; a target that the list lacks comes last of all."""
    query, size = task.query_ids[number], len(task.gallery_ids)
    if view.candidates is not None:
        ranked = _among(view.candidates[number], ranked, query)
    excluded = set(view.exclude[number]) if view.exclude is not None else set()
    if excluded & set(ranked):
        raise DataError(f'the ranking of query "{query}" names a picture that is excluded')
    measured = _depth(view, size - len(excluded))
    if view.candidates is None and len(ranked) < measured:
        raise DataError(f'the ranking of query "{query}" has {len(ranked)} entries; {measured} are measured')
    rank = {at: place for place, at in enumerate(ranked, start=1)}
    return np.array([rank.get(at, size) for at in view.targets[number]], dtype=np.int64)


def _among(candidates: Sequence[int], ranked: Sequence[int], query: str) -> list[int]:
    """Return the candidates in the order of a list of the whole gallery, which must name all of them."""
    allowed = set(candidates)
    found = [at for at in ranked if at in allowed]
    if len(found) < len(allowed):
        raise DataError(f'the ranking of query "{query}" lacks some of its candidates')
    return found


def _depth(view: View, size: int) -> int:
    """Return how many answers the metrics of a view look at, of `size` that there are."""
    return max(min(metric.depth or size, size) for metric in view.metrics)
