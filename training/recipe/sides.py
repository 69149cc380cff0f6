"""The two sides of a search in training: what of a row is asked as a query, and with which task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from mllm_embed.errors import DataError
from mllm_embed.inputs.prompts import PromptSet
from mllm_embed.types import Document, Item, Query, with_task

from ..data.roles import ANSWERS, answers_of
from ..data.row import RowTasks, TrainingRow
from ..data.source import DataSource

Others: TypeAlias = dict[str, tuple[Item, ...]]


@dataclass(frozen=True)
class Sides:
    """What prompts need to know of rows: which of their roles ask, and the tasks of both sides.

    A model that is asked for a query and for a document in two ways, as published ones are, is trained as it will be
    asked. To others both are alike.

    Args:
        queries: the roles that ask and are nowhere found.
        query_task, document_task: of items for which neither row nor source says one; None for those of the prompts.
        source_query_task, source_document_task: those of the rows' source, before what its data set writes.
        prompts: how the model is asked, where that is known: instructions of a data set for which they have no place
            stand before the words.
    """

    queries: frozenset[str] = frozenset()
    query_task: str | None = None
    document_task: str | None = None
    source_query_task: str | None = None
    source_document_task: str | None = None
    prompts: PromptSet | None = None

    def of(self, source: DataSource) -> Sides:
        """Return the sides of rows of one source, whose tasks go before these."""
        return replace(self, source_query_task=source.query_task, source_document_task=source.document_task)

    def put(self, row: TrainingRow) -> TrainingRow:
        """Return a row whose items stand on their sides, with its own task, or else these, on them.

        Raises DataError for a row with a task of which nothing asks.
        """
        told = (self.query_task, self.document_task, self.source_query_task, self.source_document_task)
        if not (self.queries or row.task or row.tasks or any(told)):
            return row
        roles = {role: self._on_side(role, item, row) for role, item in row.roles.items()}
        others = {role: self._on_sides(role, items, row) for role, items in row.others.items()}
        if row.task and not any(item.side == "query" for item in roles.values()):
            raise DataError(
                f"row '{row.id}' has the task {row.task[:60]!r}, and no role of it only asks; leave the task out"
            )
        negatives = tuple(self._tasked(item, row) for item in row.hard_negatives)
        return replace(
            row,
            roles=roles,
            hard_negatives=negatives,
            others=self._with_other_tasks(row, roles, others),
            answers=self._answers(row),
        )

    def _on_sides(self, role: str, items: Iterable[Item], row: TrainingRow) -> tuple[Item, ...]:
        return tuple(self._on_side(role, item, row) for item in items)

    def _on_side(self, role: str, item: Item, row: TrainingRow) -> Item:
        return self._tasked(_asking(item) if role in self.queries else item, row)

    def _tasked(self, item: Item, row: TrainingRow) -> Item:
        """Return an item with what it is told: by its row's column, its source, its data set, or the stage."""
        tasks = row.tasks or RowTasks()
        if item.side == "query":
            own, stages = row.task or self.source_query_task, self.query_task
            of_data = next(iter(tasks.queries), None)
        else:
            own, stages = self.source_document_task, self.document_task
            of_data = tasks.target if item.images else None
        if own or of_data is None or item.task is not None:
            return with_task(item, own or stages)
        told = with_task(item, of_data)
        if self.prompts is None or self.prompts.takes_task(told):
            return told
        return _in_words(item, of_data, tasks.implied)

    def _with_other_tasks(self, row: TrainingRow, roles: Mapping[str, Item], others: Others) -> Others:
        """Return what else may play each role, with all that a row asks as it is told in other epochs."""
        found = dict(others)
        for again in _told_otherwise(row):
            for role in filter(self._asks(row).__contains__, row.roles):
                items = (self._on_side(role, item, again) for item in row.playing(role))
                kept = dict.fromkeys((*found.get(role, ()), *items))
                found[role] = tuple(item for item in kept if item != roles[role])
        return found

    def _answers(self, row: TrainingRow) -> tuple[dict[str, Item], ...]:
        """Return each right answer in its forms, where one of them asks also as it is told in other epochs."""
        answers = row.answers
        told = [row, *_told_otherwise(row)] if not self.queries.isdisjoint(ANSWERS) else [row]
        if len(told) > 1 and not answers:
            answers = (answers_of(row.roles),)
        return tuple(self._forms_on_side(forms, again) for again in told for forms in answers)

    def _forms_on_side(self, forms: Mapping[str, Item], row: TrainingRow) -> dict[str, Item]:
        return {role: self._on_side(role, item, row) for role, item in forms.items()}

    def _asks(self, row: TrainingRow) -> set[str]:
        """Return the roles of a row that are queries, on this side of a search or by themselves."""
        return {role for role, item in row.roles.items() if role in self.queries or item.side == "query"}


def _told_otherwise(row: TrainingRow) -> list[TrainingRow]:
    """Return a row as it is told in other epochs: with each of its other tasks, or of its data set's instructions."""
    instructions = row.tasks.queries[1:] if row.tasks else ()
    told = [replace(row, task=task) for task in row.other_tasks]
    return told + [replace(row, tasks=replace(row.tasks, queries=(task,))) for task in instructions if row.tasks]


def _in_words(item: Item, task: str, implied: frozenset[str]) -> Item:
    """Return an item with a task before its words, as its data set has it, for prompts without a place for one.

    What a picture is asked with is no change of it then: it is told as words that belong to it. A task that the item's
    prompt says by itself is left to it.
    """
    if task in implied and item.role in ("image", "composed"):
        return item
    words = task if item.words is None else f"{task} {item.words}"
    if item.avoid is not None:
        raise DataError(
            f"a row with the task {task[:60]!r} has something to avoid ({item.avoid[:60]!r}), and the prompts have no "
            "place for its task; leave the column avoid out, or train with prompts that have one"
        )
    if item.images:
        return Document(image=item.image, text=words)
    if isinstance(item, Document) or item.text is not None:
        return replace(item, text=words)
    return replace(item, instruction=words)


def _asking(item: Item) -> Item:
    """Return pictures alone or a text alone as a query; pictures with their text, which no query is, as they are."""
    if isinstance(item, Query) or (item.images and item.text is not None):
        return item
    return Query(image=item.image, task=item.task) if item.images else Query(text=item.text, task=item.task)
