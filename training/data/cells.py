"""The cells of a record, read as the texts and pictures that they must be, and made a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from mllm_embed.data.values import absent, decoded
from mllm_embed.errors import DataError
from mllm_embed.text import half_character
from mllm_embed.types import Document, ImageLike

from .formats.format import ALSO_IMAGE, PICTURES
from .numbers import Turn, number_of
from .roles import CONTENT, RowContent, answers_of, other_items, roles_of
from .row import TrainingRow

_TARGETS = ("caption", "target_image", "target_text", "target_caption")  # columns of what answers
_TARGET = "target"


@dataclass(frozen=True)
class Cells:
    """The values of one record under our names of columns.

    Args:
        values: our column -> value.
        picture: makes a picture of a value; raises DataError for one that is none.
        place: where the record lies, which decides between several texts in a cell.
        turn: decides too, so that another one is read in another epoch; None for the same one always, and the first of
            several targets.
    """

    values: Mapping[str, Any]
    picture: Callable[[Any], ImageLike]
    place: str
    turn: Turn | None = None

    def read(self, name: str) -> Sequence[ImageLike | str | None]:
        """Return what a cell gives to choose from: a picture or text, or several; [None] where it is empty.

        Of targets one for each entry of a list, None where that is empty. Raises DataError for a value that is neither.
        """
        value = self.values.get(name)
        if name == "negative_text":
            return self.texts(name)[:1] or [None]
        if name == "image" or not isinstance(value, list):
            return [self.image(name) if name in PICTURES else _text(name, value)]
        if self.several_targets and name in _TARGETS:
            return [self._one(name, entry) for entry in value]
        return [self._one(name, entry) for entry in value if not empty(entry)] or [None]

    @property
    def several_targets(self) -> bool:
        """Whether the row has several targets, of which each list names one at each place."""
        targets = self.values.get("target_image")
        return isinstance(targets, list) and len(targets) > 1

    def chosen(self, name: str, count: int) -> int:
        """Return which of `count` texts of a column is read, or, for `name` "target", which of several targets."""
        if self.turn is not None:
            return self.turn.of(f"{self.place} {name}", count)
        return 0 if name == _TARGET else number_of(f"{self.place} {name}") % count

    def text(self, name: str) -> str | None:
        """Return a text; of a list of them one, chosen by the row's place. Raises DataError for any other value."""
        value = self.values.get(name)
        if isinstance(value, list):
            filled = [entry for entry in value if not empty(entry)]
            value = filled[self.chosen(name, len(filled))] if filled else None
        return _text(name, value)

    def _one(self, name: str, value: Any) -> ImageLike | str | None:
        if name in PICTURES:
            return None if empty(value) else self.picture(value)
        return _text(name, value)

    def texts(self, name: str) -> list[str]:
        """Return all texts of a cell. Raises DataError for any other value."""
        texts = [_text(name, value) for value in _listed(self.values.get(name))]
        return [text for text in texts if text]

    def image(self, name: str) -> ImageLike | None:
        """Return a picture. Raises DataError for a value that is none."""
        value = self.values.get(name)
        return None if empty(value) else self.picture(value)

    def images(self, name: str) -> list[ImageLike]:
        """Return all pictures of a cell. Raises DataError for a value that is none."""
        return [self.picture(value) for value in _listed(self.values.get(name)) if not empty(value)]


def empty(value: Any) -> bool:
    """Return whether a cell holds nothing: null, NaN, blanks, a list of such, or a picture's object without either."""
    if isinstance(value, list):
        return all(map(empty, value))
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return not value["bytes"] and absent(value["path"])
    return absent(value)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(name: str, value: Any) -> str | None:
    if empty(value):
        return None
    if isinstance(value, bytes):  # as some writers of parquet keep texts
        try:
            value = decoded(value)
        except DataError as error:
            raise DataError(f"{name} {error}") from error
    if not isinstance(value, str):
        raise DataError(f"{name} must be a text, not {str(value)[:60]!r}")
    if half_character(value):
        raise DataError(f"{name} holds half a character (a lone surrogate)")
    return value


def row_of(kind: str, cells: Cells, identifier: str, group: str, needed: Sequence[str] = ()) -> TrainingRow:
    """Return one row of `kind`. Raises DataError for a value that is no picture or text.

    Of several targets it is asked for one that offers the `needed` roles, where there is one.
    """
    negatives = [Document(image=image) for image in cells.images("negative_image")]
    if kind != "texts":  # there it is a role
        negatives += [Document(text=text) for text in cells.texts("negative_text")]
    read = {name: cells.read(name) for name in CONTENT[kind]}
    if all(len(values) == 1 for values in read.values()) and not cells.values.get(ALSO_IMAGE):  # as most rows are
        content: dict[str, Any] = {name: value for name, (value,) in read.items()}
        return TrainingRow(identifier, group, roles_of(kind, RowContent(**content)), tuple(negatives), **_tasks(cells))
    row = TrainingRow(identifier, group, {}, tuple(negatives), **_tasks(cells))
    return _row_of_lists(kind, cells, row, read, needed)


def _row_of_lists(
    kind: str, cells: Cells, row: TrainingRow, read: Mapping[str, Sequence[Any]], needed: Sequence[str]
) -> TrainingRow:
    """Return a row with the roles of one of the ways in which its columns can be read, and what the others offer."""
    asked = {name: values for name, values in read.items() if name not in _TARGETS}
    asks = _combined(asked)
    answers = _answers(cells, {name: values for name, values in read.items() if name in _TARGETS})
    ask = asks[_place(cells, asked)]
    offered = [roles_of(kind, RowContent(**ask, **answer)) for answer in answers]
    fitting = [at for at, roles in enumerate(offered) if all(map(roles.__contains__, needed))] or range(len(offered))
    at = _answer_place(cells, read, fitting, len(offered))
    others = [roles_of(kind, RowContent(**other, **answers[at])) for other in asks]
    further = [roles_of(kind, RowContent(**ask, target_image=image)) for image in cells.images(ALSO_IMAGE)]
    return replace(
        row,
        roles=offered[at],
        others=other_items(offered[at], [*others, *offered, *further]),
        answers=tuple(map(answers_of, (*offered, *further))),
    )


def _tasks(cells: Cells) -> dict[str, Any]:
    """Return the task of a row, and what it may be told as well."""
    task = cells.text("task")
    others = () if task is None else tuple(dict.fromkeys(other for other in cells.texts("task") if other != task))
    return {"task": task, "other_tasks": others}


def _combined(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every way to take one value of each column, the last column's values next to one another."""
    return [dict(zip(columns, values, strict=True)) for values in product(*columns.values())]


def _place(cells: Cells, columns: Mapping[str, Sequence[Any]]) -> int:
    """Return the place in `_combined` of the way that takes each column's chosen value."""
    place = 0
    for name, values in columns.items():
        place = place * len(values) + (cells.chosen(name, len(values)) if len(values) > 1 else 0)
    return place


def _answers(cells: Cells, columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the targets of a row: those at the same place of each list, or, of one picture, all its texts.

    Raises DataError for lists of several targets that differ in length.
    """
    if not cells.several_targets or "target_image" not in columns:
        return _combined(columns)
    count = len(columns["target_image"])
    for name, values in columns.items():
        if len(values) not in (1, count):
            raise DataError(
                f"target_image lists {count} and {name} {len(values)}; give as many, null where there is none, or one"
            )
    aligned = [list(values) * (count // len(values)) for values in columns.values()]
    answers = [dict(zip(columns, values, strict=True)) for values in zip(*aligned, strict=True)]
    return [answer for answer in answers if set(answer.values()) != {None}] or answers[:1]


def _answer_place(cells: Cells, read: Mapping[str, Sequence[Any]], fitting: Sequence[int], count: int) -> int:
    """Return which of a row's `count` targets it is asked for, one of the `fitting`."""
    if count == 1:
        return 0
    if cells.several_targets and "target_image" in read:
        return fitting[cells.chosen(_TARGET, len(fitting))]
    return _place(cells, {name: values for name, values in read.items() if name in _TARGETS})
