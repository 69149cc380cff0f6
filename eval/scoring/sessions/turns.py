"""Sessions as tasks: one for each turn, whose queries are the sessions that come that far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mllm_embed.types import Item, Query

from ..metrics import Metric
from ..suite import Task, View

SESSION_RULES = {
    "turn-t": "the sessions that have a turn t, each turn a query; what is right at the end is right in every turn",
    "found@K": "by turn t: any target among the first K of a turn up to t, of all sessions, the shorter ones too",
    "at the end": "any target among the first K of the session's own last turn",
    "turns to find": "the first turn with any target among the first K; a session without one counts a turn more than "
    "it has",
    "composed": "each turn by itself, about the reference that the annotators chose for it",
}
"""What the protocol of a suite with sessions says."""


@dataclass(frozen=True)
class Session:
    """Queries that look for the same, one after the other.

    Attributes:
        id: names it in every turn.
        turns: each a picture, as the annotators chose it, and what is said of it.
        targets: gallery positions that are right, in every turn.
        exclude: gallery positions that take part in no turn.
        kind: the group that it belongs to; None for none.
    """

    id: str
    turns: Sequence[Query]
    targets: Sequence[int]
    exclude: Sequence[int] = ()
    kind: str | None = None


def turn_tasks(
    sessions: Sequence[Session],
    gallery_ids: Sequence[str],
    gallery: Sequence[Item],
    metrics: tuple[Metric, ...],
    found_at: str,
) -> tuple[Task, ...]:
    """Return a task for each turn, "turn-1" and on; the names of them all are `Suite.turns`.

    `found_at` names the metric by which a turn counts as found in the composition audit.
    """
    longest = max((len(session.turns) for session in sessions), default=0)
    tasks = []
    for number in range(longest):
        there = [session for session in sessions if len(session.turns) > number]
        kinds = list(map(_groups, there))
        tasks.append(
            Task(
                name=f"turn-{number + 1}",
                gallery_ids=gallery_ids,
                gallery=gallery,
                query_ids=[session.id for session in there],
                queries=[(session.turns[number],) for session in there],
                views=(_view(there, metrics),),
                groups=kinds if any(kinds) else (),
                by_group=tuple(metric.name for metric in metrics),
                found_at=(found_at,),
            )
        )
    return tuple(tasks)


def _view(sessions: Sequence[Session], metrics: tuple[Metric, ...]) -> View:
    exclude = [session.exclude for session in sessions]
    return View(metrics, [session.targets for session in sessions], exclude=exclude if any(exclude) else None)


def _groups(session: Session) -> tuple[str, ...]:
    return () if session.kind is None else (session.kind,)
