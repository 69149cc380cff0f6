"""The entries of a suite's tasks: what is encoded for each row of a table, the gallery first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from mllm_embed.encode.avoiding import without_avoid
from mllm_embed.encode.encoder import PromptedEncoder
from mllm_embed.errors import DataError
from mllm_embed.inputs.prompts import PromptSet
from mllm_embed.types import Item, Query

from ..asking import AskedTask
from ..composition import IMAGE_ONLY, TEXT_ONLY
from ..suite import Suite, Task

NOT_AVOIDED = "nothing avoided"
"""The row of queries that avoid something, asked without it."""
GALLERY = "gallery"  # beside the names of rows while a suite is embedded


@dataclass(frozen=True)
class Row:
    """One matrix to be made: each of its entries is one item, or several whose vectors are averaged."""

    task: Task
    name: str
    entries: Sequence[Sequence[Item]]


def rows_of(suite: Suite) -> list[Row]:
    """Return all that is to be encoded for a suite, in order."""
    rows = []
    for task in suite.tasks:
        if gallery_owner(task, suite) is task:
            rows.append(Row(task, GALLERY, [(item,) for item in task.gallery]))
        rows += [Row(task, name, entries) for name, entries in items_of(task).items()]
    return rows


def items_of(task: Task) -> dict[str, Sequence[Sequence[Item]]]:
    """Return what is encoded of a task's queries, by row of its table; the sum is made of the others."""
    items: dict[str, Sequence[Sequence[Item]]] = {task.query_kind: task.queries}
    if avoids(task):
        items[NOT_AVOIDED] = [tuple(map(without_avoid, entry)) for entry in task.queries]
    if task.composed:
        # the items of a query differ in their words alone (FashionIQ in both orders): one picture stands for all
        items[IMAGE_ONLY] = [(Query(image=entry[0].image),) for entry in task.queries]
        items[TEXT_ONLY] = [tuple(map(_words, entry)) for entry in task.queries]
    return items


def avoids(task: Task) -> bool:
    """Return whether a query of a task avoids something."""
    return any(item.avoid is not None for item in chain.from_iterable(task.queries))


def _words(item: Item) -> Item:
    """Return the instruction alone; the picture where there is none."""
    return Query(text=item.words) if item.words is not None else Query(image=item.image)


def gallery_owner(task: Task, suite: Suite) -> Task:
    """Return the first task with the same gallery, which is encoded once for all of them."""
    return next(other for other in suite.tasks if other.gallery is task.gallery)


@dataclass(frozen=True)
class AskedItems:
    """Items of a list that are asked through one prompt set.

    Args:
        model: the embedder, with these prompts.
        places: where they stand in the list.
        items: each as its task is asked.
    """

    model: PromptedEncoder
    places: list[int]
    items: list[Item]


def by_prompts(embedder: PromptedEncoder, items: Sequence[tuple[AskedTask, Item]]) -> list[AskedItems]:
    """Return items, each with how its task is asked, by the prompts that they are asked through.

    Raises DataError where there are none.
    """
    asked = [how.asked(item) for how, item in items]
    positions: dict[PromptSet, list[int]] = {}
    for position, (prompts, _) in enumerate(asked):
        positions.setdefault(prompts, []).append(position)
    if not positions:
        raise DataError("the suite has no tasks: there is nothing to embed")
    parts = []
    for prompts, mine in positions.items():
        model = embedder if prompts == embedder.prompts else embedder.with_prompts(prompts)
        parts.append(AskedItems(model, mine, [asked[at][1] for at in mine]))
    return parts
