"""The cells of a row: which of them hold nothing, what an id becomes, and which words are none."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
import uuid
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import DataError
from ..text import half_character, printable

_NAMES = (int, float, decimal.Decimal, datetime.date, datetime.time, uuid.UUID)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)
_SHOWN = 60


def absent(value: Any) -> bool:
    """Return whether a cell holds nothing: null, NaN, or blank words. 0 and False are something."""
    if isinstance(value, str):
        return not value or value.isspace()
    # of these one value, NaN or NaT, differs from itself
    return value is None or (
        isinstance(value, (float, np.floating, decimal.Decimal, datetime.date)) and bool(value != value)
    )


def id_text(value: Any) -> str:
    """Return an id as text: words as they are, numbers, truth values and dates as Python writes them.

    So 1 and "1" are one id, "1"; 1.0 is "1.0", and true is "True". Bytes are read as UTF-8.

    Raises DataError for what names nothing: a list, an object, an infinite number, bytes that are no text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        return decoded(value)
    if not isinstance(value, _NAMES) or value in (math.inf, -math.inf):
        raise DataError(f"is {shown(value)}, which is no name; give a text or a number")
    return str(value)


def ids_of(given: Iterable[Any]) -> list[str]:
    """Return ids as texts, as `id_text`. Raises DataError for one that is empty, no name, or no Unicode."""
    ids = []
    for number, value in enumerate(given, start=1):
        if absent(value):
            raise DataError(f"id {number} is empty ({value!r}); give each row a name of its own")
        try:
            ids.append(id_text(value))
        except DataError as error:
            raise DataError(f"id {number} {error}") from error
        if half_character(ids[-1]):
            raise DataError(f'id {number}, "{printable(ids[-1])}", is no Unicode; write it in UTF-8')
    return ids


def words_of(value: Any) -> str:
    """Return words, bytes of them read as UTF-8. Raises DataError for other values, and for half characters."""
    text = decoded(value) if isinstance(value, bytes) else value
    if not isinstance(text, str):
        raise DataError(f"is {shown(text)}, which is no text; put it in quotes, or leave it out")
    if half_character(text):
        raise DataError(f"holds half a character (a lone surrogate): {printable(text)[:_SHOWN]}; write it as UTF-8")
    return text


def check_picture_name(name: str) -> None:
    """Raise DataError for a URL, and for a name that is no Unicode."""
    if is_url(name):
        raise DataError(f"{name[:80]} is a URL, and none is fetched; download the pictures and give their paths")
    if half_character(name):
        raise DataError(f"the name {printable(name)} is no Unicode; rename the file in UTF-8")


def is_url(name: str) -> bool:
    """Return whether a name asks for a download, or holds a picture itself as `data:` does."""
    return ":" in name and _URL.match(name) is not None


def decoded(value: bytes) -> str:
    """Return bytes as the UTF-8 text that they are. Raises DataError where they are none."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"is {len(value)} bytes that are no UTF-8 text; write it as text") from error


def shown(value: Any) -> str:
    """Return how a message names a value that should be another."""
    text = printable(json.dumps(value, ensure_ascii=False, default=str))
    return f"the {type(value).__name__} {text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'}"
