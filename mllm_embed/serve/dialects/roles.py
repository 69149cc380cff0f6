"""Which side of a search an input stands on, by the words that clients have for it, and what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...errors import DataError
from ...types import Item, as_document, as_item, as_query
from ..refusals import Refusal
from .content import Draft

InputType: TypeAlias = Literal[
    "query", "document", "search_query", "search_document", "image", "classification", "clustering"
]
# Cohere calls a picture of the gallery an image; what is sorted or grouped is compared with its like, as documents are
_READERS: dict[str | None, Callable[[object], Item]] = {
    None: as_item,
    "query": as_query,
    "document": as_document,
    "search_query": as_query,
    "search_document": as_document,
    "image": as_document,
    "classification": as_document,
    "clustering": as_document,
}
_TASKS: dict[str, InputType] = {"retrieval.query": "query", "retrieval.passage": "document"}
_OTHER_TASKS = ("text-matching", "classification", "separation", "code.query", "code.passage")


@dataclass(frozen=True)
class Asked:
    """What a request says of all its inputs.

    Args:
        input_type: their side; without one an input with an instruction is a query and any other a document.
        instruction: what to change in the picture, of inputs that have none of their own.
        task: what the model is to do, of inputs that have none of their own.
    """

    input_type: InputType | None = None
    instruction: str | None = None
    task: str | None = None

    @classmethod
    def of(cls, input_type: InputType | None, instruction: str | None, task: str | None) -> Asked:
        """Return what is asked, where a task may be one of Jina's names for a side.

        Raises Refusal 422 for another of Jina's names, and for one that is not the side that `input_type` says.
        """
        if task in _OTHER_TASKS:
            raise Refusal(422, f"task '{task}' has no counterpart here; use {' or '.join(_TASKS)}", field="task")
        side = _TASKS.get(task or "")
        if side is None:
            return cls(input_type, instruction, task)
        if input_type is not None and _READERS[input_type] is not _READERS[side]:
            raise Refusal(422, f"task '{task}' and input_type '{input_type}' are two sides; give one", field="task")
        return cls(side, instruction)

    def item(self, draft: Draft, pictures: Sequence[bytes]) -> Item:
        """Return what is embedded of an input and its pictures. Raises Refusal 422, with its place, for none."""
        words: Mapping[str, str | None] = {"instruction": self.instruction, "task": self.task, **draft.words}
        given: dict[str, object] = {name: text for name, text in words.items() if text is not None}
        if pictures:
            given["image"] = pictures[0] if len(pictures) == 1 else tuple(pictures)
        read = _READERS[self.input_type]
        if read is as_document and "instruction" in given:
            raise Refusal(
                422,
                f"{draft.field} is a document, as input_type '{self.input_type}' says, and those have no instruction; "
                "give input_type 'query', or leave the instruction out",
                field=draft.field,
            )
        try:
            return read(given)
        except DataError as error:
            raise Refusal(422, f"{draft.field}: {error}", field=draft.field) from error
