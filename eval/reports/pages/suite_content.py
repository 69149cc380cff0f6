"""The queries and galleries of an opened benchmark, as a page shows them."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from mllm_embed.types import ImageLike, ImageSource, Item, picture_key

from ...scoring.suite import Suite, Task
from .content import Asked, Entry

MOST_QUERIES = 20_000
Position = tuple[Task, int]  # of a query in its task


def some_queries(suite: Suite) -> list[Position]:
    """Return the queries of a suite in order; where they are too many for one page, as many, evenly spread."""
    every = [(task, position) for task in suite.tasks for position in range(len(task.queries))]
    if len(every) <= MOST_QUERIES:
        return every
    return [every[at * len(every) // MOST_QUERIES] for at in range(MOST_QUERIES)]


def entry_key(task: Task, position: int) -> Hashable:
    """Return the key of an entry: its task's name, and its id."""
    return task.name, task.gallery_ids[position]


def entries_of(suite: Suite) -> Iterator[tuple[Hashable, Entry]]:
    """Yield all entries of a suite by their keys."""
    for task in suite.tasks:
        for name, item in zip(task.gallery_ids, task.gallery, strict=True):
            yield (task.name, name), Entry(name, item.words, item.images)


def asked(task: Task, position: int, tasks: int) -> Asked:
    """Return a query as it is shown; `tasks`: how many there are."""
    items = task.queries[position]
    # the items of a query may differ in their words alone, or be pictures of one thing
    shown = chain.from_iterable(item.images for item in items)
    pictures = list({picture_key(picture): picture for picture in shown}.values())
    labels: dict[str, Sequence[str]] = {"task": [task.name or task.query_kind]} if tasks > 1 else {}
    if task.groups:
        labels["kind"] = task.groups[position]
    return Asked(
        id=task.query_ids[position],
        task=task.name,
        words=list(dict.fromkeys(item.words for item in items if item.words is not None)),
        text=next(filter(None, map(_reference_text, items)), None),
        pictures=pictures,
        names=list(map(_name, pictures)),
        targets=[entry_key(task, at) for at in targets_of(task, position)],
        size=_size(task, position),
        labels=labels,
    )


def targets_of(task: Task, position: int) -> Sequence[int]:
    """Return the gallery positions of what is right for a query by the first view; none where nobody says it."""
    return task.views[0].targets[position] if task.views else ()


def _name(picture: ImageLike) -> str:
    """Return what a picture is called, as far as it has a name."""
    if isinstance(picture, (str, os.PathLike)):
        return Path(picture).stem
    return str(picture) if isinstance(picture, ImageSource) else ""


def _reference_text(item: Item) -> str | None:
    """Return the text that stands for a reference picture, where words say what to change in it."""
    return item.text if item.role == "composed_text" else None


def _size(task: Task, position: int) -> int:
    """Return how many entries take part in a query's ranking."""
    view = task.views[0] if task.views else None
    if view is not None and view.candidates is not None:
        return len(set(view.candidates[position]))
    excluded = set(view.exclude[position]) if view is not None and view.exclude is not None else ()
    return len(task.gallery) - len(excluded)
