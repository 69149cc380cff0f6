"""Our columns to the roles of a row, each role as `training.data.roles.ROLES` names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mllm_embed.data.json_rows import half_character
from mllm_embed.errors import DataError
from mllm_embed.types import Document, ImageLike, Item, Query

from .numbers import number_of
from .row import TrainingRow


@dataclass(frozen=True)
class Cells:
    """The values of one row, read as what they must be."""

    values: Mapping[str, Any]
    picture: Callable[[Any], ImageLike]
    place: str

    def text(self, name: str) -> str | None:
        """A text; of a list of them one, chosen by the row's place. Raises DataError for any other value."""
        value = self.values.get(name)
        if isinstance(value, list):
            filled = [entry for entry in value if not empty(entry)]
            value = filled[number_of(f"{self.place} {name}") % len(filled)] if filled else None
        return _text(name, value)

    def texts(self, name: str) -> list[str]:
        values = self.values.get(name)
        texts = [_text(name, value) for value in (values if isinstance(values, list) else [values])]
        return [text for text in texts if text]

    def image(self, name: str) -> ImageLike | None:
        value = self.values.get(name)
        return None if empty(value) else self.picture(value)

    def images(self, name: str) -> list[ImageLike]:
        value = self.values.get(name)
        return [self.picture(entry) for entry in (value if isinstance(value, list) else [value]) if not empty(entry)]


def empty(value: Any) -> bool:
    """Whether a cell holds nothing: null, blanks, or a list of such."""
    if isinstance(value, list):
        return all(map(empty, value))
    return value is None or (isinstance(value, str) and not value.strip())


def _text(name: str, value: Any) -> str | None:
    if empty(value):
        return None
    if not isinstance(value, str):
        raise DataError(f"{name} must be a text, not {str(value)[:60]!r}")
    if half_character(value):
        raise DataError(f"{name} holds half a character (a lone surrogate)")
    return value


def pair(cells: Cells) -> dict[str, Item]:
    """A picture and what it shows."""
    image, caption = cells.image("image"), cells.text("caption")
    return _given(image=image and Document(image=image), caption=caption and Document(text=caption))


def triplet(cells: Cells) -> dict[str, Item]:
    """What is asked, by a picture or words or both, and what must be found."""
    image, instruction, source = cells.image("image"), cells.text("instruction"), cells.text("source_text")
    target_image, target_text = cells.image("target_image"), cells.text("target_text")
    words = target_text or cells.text("target_caption")
    asked_in_words = (instruction and (source or not image)) and Query(text=source, instruction=instruction)
    caption = cells.text("target_caption")
    return _given(
        # whatever asks and whatever answers, for sources that mix pictures and words
        query=Query(image=image, instruction=instruction) if image else asked_in_words,
        target=Document(image=target_image, text=caption) if target_image else words and Document(text=words),
        composed=image and Query(image=image, instruction=instruction),
        query_image=image and Document(image=image),
        target_image=target_image and Document(image=target_image),
        target_text=target_text and Document(text=target_text),
        target_captioned=target_image and words and Document(image=target_image, text=words),
        source_text=source and Document(text=source),
        composed_text=asked_in_words,
    )


def text_row(cells: Cells) -> dict[str, Item]:
    """Words alone."""
    source, instruction = cells.text("source_text"), cells.text("instruction")
    target, negative = cells.text("target_text"), cells.texts("negative_text")[:1]
    return _given(
        source_text=source and Document(text=source),
        target_text=target and Document(text=target),
        negative_text=negative and Document(text=negative[0]),
        composed_text=source and instruction and Query(text=source, instruction=instruction),
    )


def _given(**roles: Any) -> dict[str, Item]:
    return {name: item for name, item in roles.items() if item}


ROLES_OF: dict[str, Callable[[Cells], dict[str, Item]]] = {"pairs": pair, "triplets": triplet, "texts": text_row}


def row_of(kind: str, cells: Cells, identifier: str, group: str) -> TrainingRow:
    """One row of `kind`. Raises DataError for a value that is no picture or text."""
    negatives = [Document(image=image) for image in cells.images("negative_image")]
    negatives += [Document(text=text) for text in cells.texts("negative_text") if kind != "texts"]
    return TrainingRow(identifier, group, ROLES_OF[kind](cells), tuple(negatives))
