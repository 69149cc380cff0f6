"""When sessions find what they look for: by which turn, and in how many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mllm_embed.types import Item, Query
from mllm_embed.vectors.ranking import TargetRanks

from ..estimate import INTERVAL, resamples
from ..metrics import Metric, recall_at_k
from ..suite import Suite, Task, View

AT_THE_END = "at the end"
KS = (1, 10)
"""First answers among which a target counts as found; CIRCLED's own code looks at 10."""
Ranked = tuple[Mapping[str, Sequence[tuple[View, TargetRanks]]], Mapping[str, np.ndarray]]
"""Row -> each view with its targets' ranks, and row -> the first answers [Q, <= 10]."""


@dataclass(frozen=True)
class TurnsToFind:
    """In how many turns sessions find a target; one that never does counts a turn more than it has.

    Attributes:
        mean: over all sessions.
        low, high: 95 % interval, as `estimate.INTERVAL_RULE` says, by the first pictures of the sessions.
        found: sessions that find one.
        sessions: how many there are.
    """

    mean: float
    low: float
    high: float
    found: int
    sessions: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "found": self.found, "sessions": self.sessions}


def found_tasks(suite: Suite) -> tuple[Task, ...]:
    """Return a task for each of `KS`, "found@K", whose queries are all sessions; none where the suite has none.

    A session stands there as its first picture and all that was said, so that what is drawn together shares a picture.

    Its metrics, "by turn 1" and on, count the sessions with a target among the first K answers of a turn so far, and
    AT_THE_END those with one among the first K of their own last turn.
    """
    if not suite.turns:
        return ()
    turns = _turns(suite)
    first, view = turns[0], turns[0].views[0]
    said = _said(turns)
    groups = [(*own, _in_words(len(said[name]))) for name, own in _grouped(first)]
    tasks = []
    for k in KS:
        metrics = [
            Metric(f"by turn {number}", partial(recall_at_k, k=k), k, counts=True)
            for number in range(1, len(turns) + 1)
        ]
        metrics.append(Metric(AT_THE_END, partial(recall_at_k, k=k), k, counts=True))
        tasks.append(
            Task(
                name=f"found@{k}",
                gallery_ids=first.gallery_ids,
                gallery=first.gallery,
                query_ids=first.query_ids,
                queries=[(_whole(said[name]),) for name in first.query_ids],
                views=tuple(View((metric,), view.targets, exclude=view.exclude) for metric in metrics),
                groups=groups,
                by_group=tuple(metric.name for metric in metrics),
                found_at=(),  # a half of a session is no query; each turn is audited
            )
        )
    return tuple(tasks)


def found_ranks(task: Task, suite: Suite, ranked: Mapping[str, Ranked]) -> Ranked:
    """Return what `found_tasks`' task is measured by: the ranks of all turns so far, and the last turn's answers.

    `ranked` holds the same of the turns, by the names of their tasks.
    """
    turns = _turns(suite)
    ranks: dict[str, list[tuple[View, TargetRanks]]] = {}
    answers: dict[str, np.ndarray] = {}
    _, *others = max((list(ranked[turn.name][0]) for turn in turns), key=len)
    for row in (task.query_kind, *others):
        own = {turn.name: _row_of(turn, row, ranked) for turn in turns}
        by_turn = [ranked[turn.name][0][own[turn.name]][0][1] for turn in turns]
        *so_far, at_the_end = task.views
        ranks[row] = [(view, _known(turns[:number], by_turn)) for number, view in enumerate(so_far, 1)]
        ranks[row].append((at_the_end, _known(turns, by_turn, last=True)))
        last: dict[str, np.ndarray] = {}
        for turn in turns:
            last |= zip(turn.query_ids, ranked[turn.name][1][own[turn.name]], strict=True)
        answers[row] = np.stack([last[name] for name in task.query_ids])
    return ranks, answers


def turns_to_find(task: Task, suite: Suite, values: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, TurnsToFind]:
    """Return in how many turns the sessions of a task of `found_tasks` find a target, by row.

    `values` are row -> metric -> [Q], 1 where a session has found one by that turn.
    """
    said = _said(_turns(suite))
    own = np.array([len(said[name]) for name in task.query_ids])
    found = {}
    for row, by_metric in values.items():
        by_turn = np.stack([by_metric[view.metrics[0].name] for view in task.views[:-1]], axis=1)  # [Q, T]
        missed = (by_turn == 0) & (np.arange(by_turn.shape[1]) < own[:, None])
        turns = 1 + missed.sum(axis=1, keepdims=True).astype(np.float64)
        low, high = np.percentile(resamples(turns, task.name, task.references), INTERVAL).tolist()
        found[row] = TurnsToFind(float(turns.mean()), low, high, int(by_turn[:, -1].sum()), len(turns))
    return found


def _turns(suite: Suite) -> list[Task]:
    by_name = {task.name: task for task in suite.tasks}
    return [by_name[name] for name in suite.turns]


def _row_of(turn: Task, row: str, ranked: Mapping[str, Ranked]) -> str:
    """Return a turn's own row for one of all turns: of pictures that ask without words the halves are the pictures."""
    return row if row in ranked[turn.name][0] else turn.query_kind


def _said(turns: Sequence[Task]) -> dict[str, list[Item]]:
    """Return what each session asks, turn by turn."""
    said: dict[str, list[Item]] = {}
    for task in turns:
        for name, (item, *_) in zip(task.query_ids, task.queries, strict=True):
            said.setdefault(name, []).append(item)
    return said


def _whole(said: Sequence[Item]) -> Query:
    """Return a session as one query: its first picture, and all that was said."""
    words = [item.words for item in said if item.words is not None]
    return Query(said[0].images or None, " | ".join(words) or None)


def _in_words(turns: int) -> str:
    return "1 turn" if turns == 1 else f"{turns} turns"


def _grouped(task: Task) -> list[tuple[str, Sequence[str]]]:
    return list(zip(task.query_ids, task.groups or [()] * len(task.query_ids), strict=True))


def _known(turns: Sequence[Task], ranks: Sequence[TargetRanks], last: bool = False) -> TargetRanks:
    """Return for each session the ranks of its targets in all of some turns, or in the last that it has of them."""
    joined = []
    for rule in ("gallery", "optimistic", "pessimistic"):
        known: dict[str, list[np.ndarray]] = {}
        for task, own in zip(turns, ranks, strict=False):
            for name, places in zip(task.query_ids, getattr(own, rule), strict=True):
                known.setdefault(name, []).append(places)
        joined.append([np.concatenate(places[-1:] if last else places) for places in known.values()])
    return TargetRanks(*joined)
