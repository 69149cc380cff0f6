"""What can be embedded: a `Query` (picture, instruction, or both) and a `Document` (picture or text)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from PIL import Image

from .errors import DataError


@runtime_checkable
class ImageSource(Protocol):
    """A picture that is made when it is needed: a crop of a file, say. Hashable; equal sources give equal pictures."""

    def read(self) -> Image.Image:
        """The picture. Raises ImageError, naming the file."""
        ...


ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | ImageSource
Role = Literal["composed", "image", "text"]


@dataclass(frozen=True)
class Query:
    """What is looked for: like `image` but changed by `instruction`; either may stand alone.

    Raises DataError when both are missing or the instruction is empty.
    """

    image: ImageLike | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        _check(self, self.instruction, "instruction")

    @property
    def words(self) -> str | None:
        return self.instruction

    @property
    def role(self) -> Role:
        return _role(self)


@dataclass(frozen=True)
class Document:
    """What can be found: a picture or a text. Raises DataError when both or neither are given, or the text is empty."""

    image: ImageLike | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        _check(self, self.text, "text")
        if self.image is not None and self.text is not None:
            raise DataError("a Document is a picture or a text, not both; use Query(image=..., instruction=...)")

    @property
    def words(self) -> str | None:
        return self.text

    @property
    def role(self) -> Role:
        return _role(self)


Item: TypeAlias = Query | Document


def as_item(value: object) -> Item:
    """Read a plain value as an item: a str is a text, a path, bytes or a PIL picture is an image.

    A mapping may have the keys "image", "text" and "instruction". Raises DataError for anything else.
    """
    if isinstance(value, (Query, Document)):
        return value
    if isinstance(value, str):
        return Document(text=value)
    if isinstance(value, (os.PathLike, bytes, Image.Image)):
        return Document(image=value)
    if isinstance(value, Mapping) and value.keys() <= {"image", "text", "instruction"}:
        if value.get("text") is not None:
            if value.get("instruction") is not None:
                raise DataError("a dict has a text (to be found) or an instruction (to look for), not both")
            return Document(image=value.get("image"), text=value["text"])
        return Query(image=value.get("image"), instruction=value.get("instruction"))
    raise DataError(
        f"cannot embed a {type(value).__name__}: give a text (str), a picture (pathlib.Path, bytes, PIL image), "
        "a Query, a Document, or a dict with the keys image, text, instruction"
    )


def _check(item: Item, words: str | None, name: str) -> None:
    if words is not None and not (isinstance(words, str) and words.strip()):
        raise DataError(f"the {name} of a {type(item).__name__} is empty; give words, or leave it out")
    if item.image is not None and not isinstance(item.image, (str, os.PathLike, bytes, Image.Image, ImageSource)):
        raise DataError(
            f"the image of a {type(item).__name__} is a {type(item.image).__name__}; give a path, bytes or a PIL image"
        )
    if words is None and item.image is None:
        raise DataError(f"a {type(item).__name__} needs an image or a {name}")


def _role(item: Item) -> Role:
    if item.image is None:
        return "text"
    return "image" if item.words is None else "composed"
