"""What can be embedded: a `Query` and a `Document`, each of pictures, words, or both."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from PIL import Image

from .errors import DataError, did_you_mean, kind_of, with_article
from .text import half_character, printable


@runtime_checkable
class ImageSource(Hashable, Protocol):
    """A picture that is made when it is needed: a crop of a file, say. Hashable; equal sources give equal pictures."""

    def read(self) -> Image.Image:
        """Return the picture. Raises ImageError, naming the file."""
        ...


ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | ImageSource
Images: TypeAlias = ImageLike | Sequence[ImageLike]
Role = Literal["image", "composed", "text", "captioned", "composed_text"]
Side = Literal["query", "document"]
_KEYS = ("image", "text", "instruction", "task", "avoid")
_OF_QUERIES = ("instruction", "avoid")
_NO_LISTS = (str, bytes, bytearray)  # sequences, but not of pictures


@dataclass(frozen=True)
class Query:
    """What is looked for: like the reference, but changed by `instruction`.

    The reference is a picture, several pictures in order, or a `text` that stands for one; the reference or the
    instruction may be left out. `task` tells a model that was trained on many tasks which one this is ("Find a fashion
    image that matches the description."), in the place of its prompt set's own. `avoid` says what must not be seen ("a
    dog"): the direction of these words is taken from the vector (vectors/avoiding.py). Raises DataError when nothing is
    given to look for, words are empty, or the reference is both a picture and a text.
    """

    image: Images | None = None
    instruction: str | None = None
    text: str | None = None
    task: str | None = None
    avoid: str | None = None

    def __post_init__(self) -> None:
        _check(self, instruction=self.instruction, text=self.text)
        if self.images and self.text is not None:
            raise DataError(
                "the reference of a Query is a picture or a text, not both; what to change is `instruction`"
            )

    @property
    def images(self) -> tuple[ImageLike, ...]:
        """The reference's pictures in order, none where it has none."""
        return _images(self.image)

    @property
    def role(self) -> Role:
        """Which prompt asks it; words alone are a text, whether they are an instruction or a reference."""
        if self.images:
            return "image" if self.instruction is None else "composed"
        return "text" if self.instruction is None or self.text is None else "composed_text"

    @property
    def side(self) -> Side:
        """The side of a search that it stands on: "query"."""
        return "query"

    @property
    def words(self) -> str | None:
        """Its instruction, or else its text; None where there is neither."""
        return self.text if self.instruction is None else self.instruction

    @property
    def key(self) -> Hashable:
        """A key that items share which no model can tell apart; pictures go by their names."""
        return item_key(self, tuple(map(picture_key, self.images)))


@dataclass(frozen=True)
class Document:
    """What can be found: pictures, a text, or pictures with the text that belongs to them.

    `task` is as for a `Query`. Raises DataError when nothing is given or words are empty.
    """

    image: Images | None = None
    text: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        _check(self, text=self.text)

    @property
    def images(self) -> tuple[ImageLike, ...]:
        """Its pictures in order, none where it has none."""
        return _images(self.image)

    @property
    def role(self) -> Role:
        """Which prompt asks it."""
        if not self.images:
            return "text"
        return "image" if self.text is None else "captioned"

    @property
    def avoid(self) -> None:
        """What must not be seen: nothing, which a query alone says."""
        return None

    @property
    def side(self) -> Side:
        """The side of a search that it stands on: "document"."""
        return "document"

    @property
    def words(self) -> str | None:
        """Its text; None where it is pictures alone."""
        return self.text

    @property
    def key(self) -> Hashable:
        """A key that items share which no model can tell apart; pictures go by their names."""
        return item_key(self, tuple(map(picture_key, self.images)))


Item: TypeAlias = Query | Document


def as_item(value: object) -> Item:
    """Return a plain value as an item: a str is a text, a path, bytes or a PIL picture is an image.

    A mapping may have the keys "image", "text", "instruction", "task" and "avoid", where None is nothing: with an
    instruction or something to avoid it is a Query, else a Document. Raises DataError for anything else.
    """
    if isinstance(value, (Query, Document)):
        return value
    if isinstance(value, str):
        return Document(text=value)
    if isinstance(value, (os.PathLike, bytes, Image.Image)):
        return Document(image=value)
    if isinstance(value, Mapping):
        given = _given(value)
        return Document(**given) if given.keys().isdisjoint(_OF_QUERIES) else Query(**given)
    raise DataError(
        f"cannot embed {kind_of(value)}: give a text (str), a picture (pathlib.Path, bytes, PIL image), "
        f"a Query, a Document, or a dict with the keys {', '.join(_KEYS)}"
    )


def as_query(value: object) -> Item:
    """Return what `as_item` does of a value that stands on the query's side of a search: a Query, but for a Document.

    There the text of a mapping with a picture, and no instruction, says what to change in it.
    """
    if isinstance(value, str):
        return Query(text=value)
    if isinstance(value, (os.PathLike, bytes, Image.Image)):
        return Query(image=value)
    if not isinstance(value, Mapping):
        return as_item(value)
    given = _given(value)
    if "image" in given and "instruction" not in given and "text" in given:
        given["instruction"] = given.pop("text")
    return Query(**given)


def as_document(value: object) -> Item:
    """Return what `as_item` does of a value that stands on the gallery's side of a search.

    Raises DataError for a mapping with an instruction or something to avoid, too: that is a query.
    """
    given = _given(value) if isinstance(value, Mapping) else {}
    if "instruction" in given:
        raise DataError("a document has no instruction: what to change is a query's, which encode_query takes")
    if "avoid" in given:
        raise DataError("a document avoids nothing: what must not be seen is a query's, which encode_query takes")
    return as_item(value)


def _given(value: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what a mapping says of an item. Raises DataError for keys that mean nothing."""
    unknown = [key for key in value if key not in _KEYS]
    if unknown:
        hint = did_you_mean(str(unknown[0]), _KEYS)
        raise DataError(f"cannot embed a dict with the key {unknown[0]!r}: give any of {', '.join(_KEYS)}{hint}")
    return {key: part for key, part in value.items() if part is not None}


def picture_key(image: ImageLike) -> Hashable:
    """Return a key that pictures share which are named alike; pictures in memory only when they are one object."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    return id(image) if isinstance(image, Image.Image) else image


def with_task(item: Item, task: str | None) -> Item:
    """Return an item with a task, where it has none of its own."""
    return item if task is None or item.task is not None else replace(item, task=task)


def item_key(item: Item, pictures: tuple[Hashable, ...], asked: Hashable = None) -> Hashable:
    """Return a key of what an item says and asks, and of its pictures, whose keys are given.

    `asked` is how a prompt set asks it (`PromptSet.asked`), which may be alike for both sides of a search; by default
    it is taken to be what no set holds alike.
    """
    how = _asked(item) if asked is None else (asked,)
    key = (*how, pictures, item.text or item.words, item.words)
    return key if item.avoid is None else (*key, ("avoid", item.avoid))  # so that keys of others are what they were


def _asked(item: Item) -> tuple[Hashable, ...]:
    """Return what of an item may decide how it is asked, its words and pictures apart."""
    # only queries have the other roles but `captioned`, which only documents have
    side = ("query",) if item.side == "query" and item.role in ("image", "text") else ()
    task = () if item.task is None else (("task", item.task),)
    return (item.role, *side, *task)


def _images(image: Images | None) -> tuple[ImageLike, ...]:
    if image is None:
        return ()
    if isinstance(image, Sequence) and not isinstance(image, _NO_LISTS):
        return tuple(image)
    return (image,)


def _check(item: Item, **words: str | None) -> None:
    """Raise DataError for an item that says nothing, or something that is no word or picture."""
    kind = type(item).__name__
    given = {name: value for name, value in words.items() if value is not None}
    beside = {name: value for name, value in (("task", item.task), ("avoid", item.avoid)) if value is not None}
    for name, value in (given | beside).items():
        if not isinstance(value, str):
            raise DataError(f"the {name} of a {kind} is {kind_of(value)}; give words (str)")
        if not value.strip():
            raise DataError(f"the {name} of a {kind} is empty; give words, or leave it out")
        if half_character(value):
            raise DataError(
                f"the {name} of a {kind} holds half a character (a lone surrogate), which is no Unicode: "
                f"{printable(value)[:60]}; write it in UTF-8"
            )
    _check_images(item)
    if not item.images and not given:
        raise DataError(f"a {kind} needs an image or {' or '.join(map(with_article, words))}")


def _check_images(item: Item) -> None:
    kind = type(item).__name__
    if isinstance(item.image, Sequence) and not isinstance(item.image, _NO_LISTS):
        object.__setattr__(item, "image", item.images)  # a frozen item stays hashable
    if isinstance(item.image, tuple) and not item.image:
        raise DataError(f"the image of a {kind} is an empty list; give pictures, or leave it out")
    for image in item.images:
        if not isinstance(image, (str, os.PathLike, bytes, Image.Image, ImageSource)):
            raise DataError(f"the image of a {kind} is {kind_of(image)}; give a path, bytes or a PIL image")
