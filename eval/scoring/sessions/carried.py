"""Rows of the table for the rules that carry the past of a session, each under one or both of two protocols.

With the annotators' references a rule is told in every turn which picture they chose, knowing what is looked for; the
row "composed" is `last turn` so. Target-free it is told the first picture alone, as a user brings one, and goes on from
what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from mllm_embed.errors import DataError
from mllm_embed.search.composition import Composition
from mllm_embed.search.sessions.rules import rules
from mllm_embed.search.sessions.turn import Parts, Rule, Turn
from mllm_embed.types import Images, Item, Query
from mllm_embed.vectors.fusion import weighted

from ..asking import AskedSuite, AskedTask
from ..score import Vectors, answers_of
from ..suite import Suite, Task

ANNOTATED, TARGET_FREE = "annotated", "target-free"
_LAST_TURN = "last turn"  # with the annotators' references it is the first row of every table
Encoded = Callable[[Sequence[tuple[AskedTask, Item]]], np.ndarray]
"""Items, each with how it is asked -> their vectors [N, D] float32."""


@dataclass(frozen=True)
class Way:
    """A rule under a protocol."""

    rule: Rule
    protocol: str

    @property
    def row(self) -> str:
        """The name of its row."""
        return f"{self.protocol}: {self.rule.name}"

    @property
    def forgetting(self) -> str:
        """The row of the last turn alone by the same protocol; "" where that is the queries as asked."""
        return f"{TARGET_FREE}: {_LAST_TURN}" if self.protocol == TARGET_FREE else ""

    @property
    def carries(self) -> bool:
        """Whether it carries anything."""
        return self.rule.name != _LAST_TURN

    @property
    def about(self) -> str:
        """What stands in a result's protocol."""
        settings = "".join(f"; {name} {value:g}" for name, value in self.rule.defaults.items())
        return f"{self.rule.about.rstrip('.')}{settings}"


def ways() -> list[Way]:
    """Return all rules under the protocols that make a difference to them, in the order of the table."""
    found = [Way(rule, ANNOTATED) for rule in rules().values() if not rule.reads_answers and rule.name != _LAST_TURN]
    return found + [Way(rule, TARGET_FREE) for rule in rules().values()]


def carried_protocol(suite: Suite) -> dict[str, str]:
    """Return what a result's protocol says of the rows; nothing for a suite without sessions."""
    return {way.row: way.about for way in ways()} if suite.turns else {}


def carried(
    suite: Suite, vectors: Mapping[str, Vectors], asked: AskedSuite, encoded: Encoded, edit_strength: float = 1.0
) -> dict[str, Vectors]:
    """Return the vectors with a row for each of `ways` in the tasks that are turns.

    Args:
        suite: with sessions, or without, and then nothing is done.
        vectors: of every task, its queries as asked among them.
        asked: how its tasks are asked.
        encoded: embeds items.
        edit_strength: how far a composed query goes from its picture, as in the rows that are there.

    Raises DataError where the first answer of a turn has no picture from which to go on, and what `encoded` raises.
    """
    made = dict(vectors)
    asker = _Asker(encoded, edit_strength)
    walks = [_Walk(way) for way in ways()] if suite.turns else []
    tasks = [task for task in suite.tasks if task.name in suite.turns]
    for task in tasks:
        asker.know(task, asked.tasks[task.name], vectors[task.name].rows[task.query_kind])
    for task in tasks:
        how, own = asked.tasks[task.name], vectors[task.name]
        parts = [walk.say(task) for walk in walks]
        asker.ask(how, [query for entry in chain.from_iterable(parts) for _, query in entry])
        rows = {}
        for walk, entries in zip(walks, parts, strict=True):
            rows[walk.way.row] = asker.mixed(how, entries)
            walk.hear(task, rows[walk.way.row], own.gallery)
        made[task.name] = replace(own, rows={**own.rows, **rows})
    return made


class _Walk:
    """All sessions as they go by one rule under one protocol."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.turns: dict[str, list[Turn]] = {}  # by session

    def say(self, task: Task) -> list[Parts]:
        """Take the next turn of the sessions that have one, and return what each searches with in it."""
        parts = []
        for name, (item, *_) in zip(task.query_ids, task.queries, strict=True):
            before = self.turns.setdefault(name, [])
            told = self.way.protocol == ANNOTATED or not before
            before.append(Turn(item.words, _pictures(item) if told else None))
            try:
                parts.append(self.way.rule.run(before))
            except DataError as error:
                raise DataError(f'{task.name} of session "{name}", {self.way.row}: {error}') from error
        return parts

    def hear(self, task: Task, queries: np.ndarray, gallery: np.ndarray) -> None:
        """Note what answers first in this turn, where the rule goes on from it."""
        if not self.way.rule.reads_answers:
            return
        for name, (at,) in zip(task.query_ids, answers_of(task.views[0], queries, gallery, 1).tolist(), strict=True):
            turns = self.turns[name]
            turns[-1] = replace(turns[-1], answer=_pictures(task.gallery[at]) if at >= 0 else None)


def _pictures(item: Item) -> Images | None:
    """Return the picture or pictures of an item; None for one of words alone."""
    return item.images[0] if len(item.images) == 1 else item.images or None


class _Asker:
    """Encodes queries, each once however many rules and turns ask it."""

    def __init__(self, encoded: Encoded, edit_strength: float) -> None:
        self.encoded, self.edit_strength = encoded, edit_strength
        self.vectors: dict[Hashable, np.ndarray] = {}  # [1, D] each

    def know(self, task: Task, how: AskedTask, vectors: np.ndarray) -> None:
        """Take the vectors [Q, D] of a task's queries as asked."""
        for at, (item, *_) in enumerate(task.queries):
            self.vectors.setdefault(_key(how, item), vectors[at : at + 1])

    def ask(self, how: AskedTask, queries: Sequence[Query]) -> None:
        """Encode those of some queries that are not known yet."""
        new = {key: query for query in queries if (key := _key(how, query)) not in self.vectors}
        if not new:
            return
        asked = [Composition(query, self.edit_strength) for query in new.values()]
        items = [question.items for question in asked]
        found = self.encoded([(how, item) for item in chain.from_iterable(items)])
        parts = np.split(found, np.cumsum(list(map(len, items)))[:-1])
        for key, question, part in zip(new, asked, parts, strict=True):
            self.vectors[key] = question.vector(part)

    def mixed(self, how: AskedTask, entries: Sequence[Parts]) -> np.ndarray:
        """Return the vectors [Q, D] float32 of what each session searches with."""
        return np.concatenate([weighted(*self._weighted(how, parts)) for parts in entries])

    def _weighted(self, how: AskedTask, parts: Parts) -> Iterator[tuple[float, np.ndarray]]:
        return ((weight, self.vectors[_key(how, query)]) for weight, query in parts)


def _key(how: AskedTask, item: Item) -> Hashable:
    prompts, told = how.asked(item)
    return prompts, told.key
