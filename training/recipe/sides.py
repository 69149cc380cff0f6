"""The two sides of a search in training: what of a row is asked as a query, and with which task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from mllm_embed.errors import DataError
from mllm_embed.types import Item, Query, with_task

from ..data.row import TrainingRow
from ..data.source import DataSource

Others: TypeAlias = dict[str, tuple[Item, ...]]


@dataclass(frozen=True)
class Sides:
    """What prompts need to know of rows: which of their roles ask, and the tasks of both sides.

    A model that is asked for a query and for a document in two ways, as published ones are, is trained as it will be
    asked. To others both are alike.

    Args:
        queries: the roles that ask and are nowhere found.
        query_task, document_task: of items that have none of their own; None for those of the prompts.
    """

    queries: frozenset[str] = frozenset()
    query_task: str | None = None
    document_task: str | None = None

    def of(self, source: DataSource) -> Sides:
        """Return the sides of rows of one source, whose tasks go before these."""
        return replace(
            self,
            query_task=source.query_task or self.query_task,
            document_task=source.document_task or self.document_task,
        )

    def put(self, row: TrainingRow) -> TrainingRow:
        """Return a row whose items stand on their sides, with its own task, or else these, on them.

        Raises DataError for a row with a task of which nothing asks.
        """
        if not (self.queries or self.query_task or self.document_task or row.task):
            return row
        asked = row.task or self.query_task
        roles = {role: self._on_side(role, item, asked) for role, item in row.roles.items()}
        others = {role: tuple(self._on_side(role, item, asked) for item in items) for role, items in row.others.items()}
        for task in row.other_tasks:
            others = self._asked_with(task, row, others)
        if row.task and not any(item.side == "query" for item in roles.values()):
            raise DataError(
                f"row '{row.id}' has the task {row.task[:60]!r}, and no role of it only asks; leave the task out"
            )
        negatives = tuple(self._tasked(item, asked) for item in row.hard_negatives)
        return replace(row, roles=roles, hard_negatives=negatives, others=others)

    def _asked_with(self, task: str, row: TrainingRow, others: Others) -> Others:
        """Return what else may play each role, with all that a row asks asked with another `task` too."""
        found = dict(others)
        for role, item in row.roles.items():
            told = (self._on_side(role, other, task) for other in (item, *row.others.get(role, ())))
            asks = tuple(other for other in told if other.side == "query")
            if asks:
                found[role] = (*found.get(role, ()), *asks)
        return found

    def _on_side(self, role: str, item: Item, asked: str | None) -> Item:
        return self._tasked(_asking(item) if role in self.queries else item, asked)

    def _tasked(self, item: Item, asked: str | None) -> Item:
        return with_task(item, asked if item.side == "query" else self.document_task)


def _asking(item: Item) -> Item:
    """Return pictures alone or a text alone as a query; pictures with their text, which no query is, as they are."""
    if isinstance(item, Query) or (item.images and item.text is not None):
        return item
    return Query(image=item.image, task=item.task) if item.images else Query(text=item.text, task=item.task)
