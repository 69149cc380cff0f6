"""JSON as strict as its readers differ: what one of them would read otherwise than another is refused.

Numbers that are none (NaN, infinity, 1e999), a key given twice, half a character (a lone surrogate) and NUL, which
PostgreSQL cannot hold: Python's own reader takes them all, and each became something else further on.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from ...text import half_character
from ..refusals import Refusal

DEEPEST = 32
"""Lists and objects within each other."""
# what three bytes of JSON make takes sixty in Python: a body within its limit would take gigabytes
MOST_LISTS = 100_000
"""Lists and objects of a request."""
MOST_VALUES = 1_000_000
"""Commas of a request, those within words too."""
# escapes that may stand for NUL or half a character: whether they do is looked at afterwards
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


def read_json(content: bytes) -> Any:
    """Return the value of a JSON text in UTF-8.

    Raises Refusal: 400 for what is none, or not plainly one value, 413 for more values than are read.
    """
    if len(content) > MOST_LISTS:  # counting takes longer than reading, and few bodies are that long
        _check_amount(content)
    try:
        value = json.loads(content.decode(), object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite)
    except UnicodeDecodeError:
        raise Refusal(400, "the body is not UTF-8; write it in UTF-8") from None
    except json.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error.msg}, at character {error.pos:,}") from None
    except ValueError:  # Python reads no integers of thousands of digits
        raise Refusal(400, "the body holds a number of too many digits; send a smaller one") from None
    except RecursionError:
        raise _too_deep() from None
    _check_depth(value)
    if b"\\" in content and _SUSPECT.search(content):
        _check_characters(value)
    return value


def _check_amount(content: bytes) -> None:
    if content.count(b"[") + content.count(b"{") > MOST_LISTS or content.count(b",") > MOST_VALUES:
        said = f"over the limits of {MOST_LISTS:,} lists and objects and {MOST_VALUES:,} values; send less at once"
        raise Refusal(413, f"the body holds more than is read, {said}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Refusal(400, f"the body has the key {twice[:60]!r} twice; give it once")
    return made


def _no_number(word: str) -> Any:
    raise Refusal(400, f"the body holds {word}, which is not JSON; leave it out, or give a number")


def _finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise Refusal(400, f"the body holds the number {word[:40]}, which is too large; send a smaller one")
    return number


def _too_deep() -> Refusal:
    return Refusal(400, f"the body has more than {DEEPEST} lists and objects within each other; send a flatter one")


def _inner(value: Any) -> Iterator[Any]:
    return iter(value.values() if isinstance(value, dict) else value)


def _check_depth(value: Any) -> None:
    """Raise Refusal 400 where lists and objects lie too deep; level by level, so that this needs no stack itself."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inner(outer) if isinstance(inner, dict | list)]
        if not level:
            return
    raise _too_deep()


def _check_characters(value: Any) -> None:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            if "\0" in one:
                raise Refusal(400, "the body holds a NUL character; leave it out")
            if half_character(one):
                raise Refusal(400, "the body holds half a character (a lone surrogate); write it in UTF-8")
        elif isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one
