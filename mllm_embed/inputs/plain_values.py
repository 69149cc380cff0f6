"""Lists of plain values as items; where a value could mean two things, what it is taken for is said, once a list."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from ..errors import DataError, kind_of
from ..types import Item, as_item

_SINGLE = (str, bytes, bytearray, os.PathLike, Mapping)
_LONGEST_NAME = 1024  # characters: no file is looked for under a longer name
_LIKE_A_FILE = re.compile(r"\.\w{1,5}$|/")
_LIKE_A_PICTURE = re.compile(
    r"data:image/\S*$|(https?|file)://\S+\.(jpe?g|png|webp|bmp|gif|tiff?|avif)([?#]\S*)?$", re.IGNORECASE
)
_STACK = 3  # from here to the caller of `encode` or `encode_query`, whose line a warning names
_TWO_MEANINGS = (
    "encode takes a dict with image and text for a document, a picture with the text that belongs to it; call "
    "encode_query where the text says what to change, encode_document where it does not, or give a Query or a Document"
)


def items_of(values: Sequence[Any], read: Callable[[object], Item] = as_item) -> list[Item]:
    """Return a list of plain values as items, by `types.as_item`, or by `as_query` or `as_document` for one side.

    Warns of a text that names a file or a picture elsewhere, and of a dict that means two things where no side is
    given. Raises DataError for what is no list, or has no order, and for what cannot be embedded.
    """
    if not _is_list(values):
        raise DataError(f"encode takes a list of inputs, not {kind_of(values)}; put a single one in brackets")
    items = []
    for place, value in enumerate(values):
        try:
            items.append(read(value))
        except DataError as error:
            raise DataError(f"input {place}: {error}") from error
    named = next(filter(_names_a_picture, values), None)
    if named is not None:
        told = (
            f"{named[:60]!r} is embedded as a text, though it names a file: give a pathlib.Path, or bytes, of a picture"
        )
        warnings.warn(told, stacklevel=_STACK)
    if read is as_item and any(map(_is_captioned, values)):
        warnings.warn(_TWO_MEANINGS, stacklevel=_STACK)
    return items


def _is_list(values: object) -> bool:
    """Whether values come one after the other: a set has no order, and a table goes through its columns' names."""
    if isinstance(values, (*_SINGLE, Set)) or not hasattr(values, "__len__"):
        return False
    return getattr(values, "ndim", 1) == 1


def _names_a_picture(text: object) -> bool:
    if not isinstance(text, str):
        return False
    if len(text) > _LONGEST_NAME and not text.startswith("data:"):
        return False
    return bool(_LIKE_A_PICTURE.match(text) or (_LIKE_A_FILE.search(text) and os.path.isfile(text)))


def _is_captioned(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    given = {key for key, part in value.items() if part is not None}
    return given == {"image", "text"}
