"""The cells of a record, read as the texts and pictures that they must be, and made a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mllm_embed.data.values import absent, decoded
from mllm_embed.errors import DataError
from mllm_embed.text import half_character
from mllm_embed.types import Document, ImageLike

from .formats.format import PICTURES
from .numbers import number_of
from .roles import CONTENT, RowContent, roles_of
from .row import TrainingRow


@dataclass(frozen=True)
class Cells:
    """The values of one record under our names of columns.

    Args:
        values: our column -> value.
        picture: makes a picture of a value; raises DataError for one that is none.
        place: where the record lies, which decides between several texts in a cell.
    """

    values: Mapping[str, Any]
    picture: Callable[[Any], ImageLike]
    place: str

    def read(self, name: str) -> ImageLike | str | None:
        """Return a picture or text, None where the cell is empty. Raises DataError for a value that is neither."""
        if name in PICTURES:
            return self.image(name)
        if name == "negative_text":
            return next(iter(self.texts(name)), None)
        return self.text(name)

    def text(self, name: str) -> str | None:
        """Return a text; of a list of them one, chosen by the row's place. Raises DataError for any other value."""
        value = self.values.get(name)
        if isinstance(value, list):
            filled = [entry for entry in value if not empty(entry)]
            value = filled[number_of(f"{self.place} {name}") % len(filled)] if filled else None
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


def row_of(kind: str, cells: Cells, identifier: str, group: str) -> TrainingRow:
    """Return one row of `kind`. Raises DataError for a value that is no picture or text."""
    negatives = [Document(image=image) for image in cells.images("negative_image")]
    if kind != "texts":  # there it is a role
        negatives += [Document(text=text) for text in cells.texts("negative_text")]
    content: dict[str, Any] = {name: cells.read(name) for name in CONTENT[kind]}
    roles = roles_of(kind, RowContent(**content))
    return TrainingRow(identifier, group, roles, tuple(negatives), cells.text("task"))
