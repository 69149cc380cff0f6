"""An opened benchmark, as data. Nothing here, nor in what ranks and measures it, knows a benchmark's name.

A `Suite` has one or several tasks (FashionIQ: its three categories), each a gallery and the queries asked of it. A
`View` says what is right for each query, which gallery rows take part, and which metrics are read off the ranks: CIRR
has one view for recall and one for recall among the six pictures of a set.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mllm_embed.errors import DataError
from mllm_embed.inputs.prompts import Slot
from mllm_embed.types import Item, picture_key

from .metrics import Metric

Positions = Sequence[Sequence[int]]


@dataclass(frozen=True)
class View:
    """One reading of a ranking. All positions are those of the gallery, one list a query.

    Attributes:
        metrics: read off the ranks of `targets`.
        targets: what is right.
        exclude: what does not take part; None for nothing.
        candidates: the few rows that do take part; None for all.
    """

    metrics: tuple[Metric, ...]
    targets: Positions
    exclude: Positions | None = None
    candidates: Positions | None = None

    def of(self, members: Sequence[int]) -> View:
        """Return the view of some of the queries, by their positions; one may stand several times."""
        return View(
            tuple(metric.of(members) for metric in self.metrics if not metric.whole),
            _some(self.targets, members),
            exclude=None if self.exclude is None else _some(self.exclude, members),
            candidates=None if self.candidates is None else _some(self.candidates, members),
        )


@dataclass(frozen=True)
class Task:
    """A gallery and its queries.

    Attributes:
        name: "" for the only task of a suite.
        gallery_ids, gallery: [N] names and items; their order settles ties.
        query_ids, queries: [Q] names, and one or several items each, whose vectors are averaged and normalised.
        views: none where the labels are hidden (submission servers). The first one's exclusions give the answers shown.
        groups: for each query the groups it belongs to (kinds of edit, semantic aspects).
        by_group: names of the metrics that are reported for each group.
        prompts: role -> words, where the task has words of its own, which take the place of InstructCIR's.
        insists: whether an option asked for those, so that a model which they do not fit is refused.
        tasks: side -> the instruction that the benchmark gives, for models whose prompts have a place for one.
        paraphrases: for each query other words for its instruction; empty where the benchmark has none.
        negatives: for each query gallery positions that are wrong by its words; empty where it has none.
        found_at: names of the metrics by which a query counts as found in the composition audit, the benchmark's own K
            first; None for the first that is a hit or none, () for no audit.
    """

    name: str
    gallery_ids: Sequence[str]
    gallery: Sequence[Item]
    query_ids: Sequence[str]
    queries: Sequence[Sequence[Item]]
    views: tuple[View, ...] = ()
    groups: Sequence[Sequence[str]] = ()
    by_group: tuple[str, ...] = ()
    prompts: Mapping[Slot, str] = field(default_factory=dict)
    insists: bool = False
    tasks: Mapping[str, str] = field(default_factory=dict)
    paraphrases: Sequence[Sequence[str]] = ()
    negatives: Positions = ()
    found_at: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for what, ids, items in (
            ("gallery", self.gallery_ids, self.gallery),
            ("query", self.query_ids, self.queries),
        ):
            if not len(ids):
                raise DataError(f"task {self.name or 'composed'}: there is no {what}")
            if len(ids) != len(items):
                raise DataError(f"task {self.name or 'composed'}: {len(ids)} {what} ids for {len(items)} items")
        known = {metric.name for view in self.views for metric in view.metrics}
        unknown = sorted(set(self.found_at or ()) - known)
        if known and unknown:
            raise DataError(f"task {self.name or 'composed'}: found_at names {unknown[0]}, no metric of it")

    def of(self, members: Sequence[int]) -> Task:
        """Return the task with some of its queries, by their positions, and its whole gallery."""
        return replace(
            self,
            query_ids=_some(self.query_ids, members),
            queries=_some(self.queries, members),
            views=tuple(view.of(members) for view in self.views),
            groups=_some(self.groups, members),
            paraphrases=_some(self.paraphrases, members),
            negatives=_some(self.negatives, members),
        )

    @property
    def query_kind(self) -> str:
        """One of "composed", "text" and "image"; also the name of the first row of the task's table."""
        return "composed" if self.composed else self.queries[0][0].role

    @property
    def composed(self) -> bool:
        """Whether the queries have a picture and an instruction, so that each half can be asked alone."""
        return any(item.role == "composed" for items in self.queries for item in items)

    @property
    def audited(self) -> tuple[str, ...]:
        """Names of the metrics by which a query counts as found; none where no metric says so."""
        if self.found_at is not None:
            return self.found_at
        return tuple([metric.name for view in self.views for metric in view.metrics if metric.counts][:1])

    @cached_property
    def positions(self) -> dict[str, int]:
        """Gallery id -> position."""
        return {name: position for position, name in enumerate(self.gallery_ids)}

    @cached_property
    def references(self) -> np.ndarray:
        """[Q] int64, the same number for queries with the same pictures, counted as they come; one of its own for a
        query without any."""
        numbers: dict[Hashable, int] = {}
        # the items of a query differ in their words alone
        keys = (tuple(map(picture_key, entry[0].images)) or at for at, entry in enumerate(self.queries))
        return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


@dataclass(frozen=True)
class Mean:
    """The mean of some estimates: "task/metric", "metric" of the only task, or the name of an earlier mean."""

    name: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """An opened benchmark.

    Attributes:
        means: over estimates of its tasks, in the order in which they build on each other.
        printed: the metrics that papers print, beside the means; empty for all.
        protocol: its rules in words.
        turns: names of the tasks that are the turns of sessions, in their order, each with the ids of the sessions
            that come that far; none without sessions.
        chosen: what `only` was told, and how many queries that leaves; "" for all.
    """

    name: str
    split: str
    options: Mapping[str, str]
    tasks: tuple[Task, ...]
    means: tuple[Mean, ...] = ()
    printed: tuple[str, ...] = ()
    protocol: Mapping[str, str] = field(default_factory=dict)
    turns: tuple[str, ...] = ()
    chosen: str = ""

    def only(self, members: Mapping[str, Sequence[int]], name: str) -> Suite:
        """Return the suite with some of its queries alone, its galleries whole, and a title that says so.

        A task of which no query is left is left out, with the means that it is part of. Turns are those of sessions
        where whole sessions are left alone: of others each turn is a query by itself, which carries nothing and tells
        nothing of when a session finds.

        Args:
            members: positions of queries by task; a task that is missing has none.
            name: of the choice, in one word.
        """
        tasks = tuple(task.of(sorted(members[task.name])) for task in self.tasks if members.get(task.name))
        left, whole = map(_count, (tasks, self.tasks))
        metrics = {metric.name for task in tasks for view in task.views for metric in view.metrics}
        sessions = self._are_sessions(members)
        alone = "" if sessions else "; each turn by itself, since not all turns of each session are named"
        return replace(
            self,
            tasks=tasks,
            means=tuple(_still_there(self.means, tasks)),
            # what is of all queries of a task together is no metric of some
            printed=tuple(metric for metric in self.printed if metric in metrics),
            turns=tuple(filter({task.name for task in tasks}.__contains__, self.turns)) if sessions else (),
            chosen=f"{name}:{left}",
            protocol={**self.protocol, "only": f"{left:,} of {whole:,} queries, the galleries whole: {name}{alone}"},
        )

    def _are_sessions(self, members: Mapping[str, Sequence[int]]) -> bool:
        """Return whether a choice has all turns of each session that it has a turn of."""
        turns = [task for task in self.tasks if task.name in self.turns]
        chosen = [set(_some(task.query_ids, members.get(task.name, ()))) for task in turns]
        sessions: set[str] = set().union(*chosen)
        return all(own == sessions & set(task.query_ids) for own, task in zip(chosen, turns, strict=True))

    @property
    def title(self) -> str:
        """Name, split and options, which tell this suite from others in words."""
        words = [f"{key}={value}" for key, value in self.options.items()]
        words += [f"only={self.chosen}"] if self.chosen else []
        return " ".join([self.name, *([self.split] if self.split else []), *words])

    @property
    def labelled(self) -> bool:
        """Whether what is right is known here, and not to a server alone."""
        return all(view.metrics for task in self.tasks for view in task.views)

    def fingerprint(self) -> str:
        """Return the sha256 over ids, words, reference pictures' names, targets and what takes part."""
        digest = hashlib.sha256(self.title.encode())
        for task in self.tasks:
            for name, item in zip(task.gallery_ids, task.gallery, strict=True):
                digest.update(_line(name, item.words))
            for name, items in zip(task.query_ids, task.queries, strict=True):
                digest.update(_line(name, *map(_described, items)))
            digest.update(_line(task.groups))
            for view in task.views:
                read = [[metric.name, metric.data] for metric in view.metrics]
                digest.update(_line(read, view.targets, view.exclude, view.candidates))
        return digest.hexdigest()

    def pictures(self) -> str:
        """Return the sha256 over the sizes of all picture files, which `fingerprint` does not look at."""
        digest = hashlib.sha256()
        for task in self.tasks:
            for items in (task.gallery, *task.queries):
                for item in items:
                    digest.update(_sizes(item))
        return digest.hexdigest()


def _count(tasks: Sequence[Task]) -> int:
    return sum(len(task.queries) for task in tasks)


def _still_there(means: Sequence[Mean], tasks: Sequence[Task]) -> Iterator[Mean]:
    """Yield the means of which all parts are figures of tasks, or means before them."""
    known = {column(task.name, metric.name) for task in tasks for view in task.views for metric in view.metrics}
    for mean in means:
        if known.issuperset(mean.parts):
            known.add(mean.name)
            yield mean


def _some(values: Sequence[Any], members: Sequence[int]) -> list[Any]:
    """Return the values of some queries; nothing where there are none of any query."""
    return [values[at] for at in members] if len(values) else []


def column(task: str, metric: str) -> str:
    """Return the name of a task's metric among those of all tasks."""
    return f"{task}/{metric}" if task else metric


def _described(item: Item) -> list[Any]:
    return [*map(_name, item.images or (None,)), item.words, *([] if item.avoid is None else [item.avoid])]


def _name(image: Any) -> str:
    """Return what a picture is called in any folder and file format."""
    return Path(image).stem if isinstance(image, (str, os.PathLike)) else str(image)


def _sizes(item: Item) -> bytes:
    """Return the sizes of an item's picture files; a file that is missing has none, but takes its place."""
    sizes = b""
    for image in item.images:
        path = getattr(image, "path", image)  # a crop's picture
        if isinstance(path, (str, os.PathLike)):
            sizes += _line(os.path.getsize(path) if os.path.exists(path) else None)
    return sizes


def _line(*values: Any) -> bytes:
    # positions may be ranges or tuples; as lists they read alike
    return json.dumps(values, default=list).encode()
