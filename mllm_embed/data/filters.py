"""Filters: which rows may answer, by what is kept beside their vectors. One small form, in JSON or as a mapping:

    {"price": {">=": 10, "<": 40}, "colour": ["red", "blue"], "in_stock": true, "size": {"!=": "XL"}, "brand": null}

All conditions must hold. A value asks for that value, a list for any of its values, null for rows without a value.
"!=" holds exactly where the same without it does not, so also for rows without a value; nothing else but null holds for
those. Where a row has a list of values, one that fits is enough. Words are compared as they are written, by code
points: dates in ISO form stand in order.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import InputError, did_you_mean, kind_of
from ..text import half_character, printable
from .values import absent, shown

Scalar = str | float | bool | None
"""What a column may hold, and what it is compared with; None is no value."""
KINDS = {"text": "words", "number": "numbers", "truth": "true and false"}
"""The kinds of columns, and what a message calls what they hold."""
RANGES = ("<", "<=", ">", ">=")
SETS = {"=": "in", "!=": "not in"}
"""Operators as they are written, of conditions that name values."""
FORM = '{"price": {"<": 40}, "colour": ["red", "blue"]}'
"""A filter as an example, for messages."""
LARGEST = 1 << 53
"""Whole numbers beyond it are not all told apart by a float64, nor by the JSON of a browser."""

MOST_VALUES = 10_000
"""Values that a condition may name; a database takes each of them for a question of its own."""
_LISTED = 20  # columns that a message names
_SHOWN = 60  # characters of a name in a message


@dataclass(frozen=True)
class Condition:
    """What must hold of one column.

    Args:
        column: its name.
        operator: "in" or "not in" some values, or one of RANGES.
        values: words, finite numbers, or truth values, of one kind; None, of "in" and "not in", is no value. A range
            has one.

    Raises InputError for values that cannot be compared.
    """

    column: str
    operator: str
    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        """Check the values, and hold them as plain ones."""
        object.__setattr__(self, "values", tuple(self._plain(value) for value in self.values))
        if self.operator not in (*RANGES, *SETS.values()):
            raise InputError(
                f"{self._where} is compared by '{self.operator}': give one of in, not in, {', '.join(RANGES)}"
            )
        if len(self.values) > MOST_VALUES:
            raise InputError(f"{self._where} names {len(self.values):,} values: give {MOST_VALUES:,} or fewer")
        if not self.values:
            raise InputError(f"{self._where} names no value: nothing could be found; give some, or leave it out")
        kinds = {kind_of_value(value) for value in self.compared}
        if len(kinds) > 1:
            words = " and ".join(sorted(KINDS[kind] for kind in kinds))
            raise InputError(f"{self._where} is compared with {words} at once: give values of one kind")
        if self.operator in RANGES:
            self._check_range(kinds)

    def _check_range(self, kinds: set[str]) -> None:
        """Raise InputError for a range of several values, of none, or of a truth value."""
        if len(self.values) > 1 or not kinds <= {"text", "number"} or not kinds:
            what = "a list" if len(self.values) > 1 else shown(self.values[0])
            raise InputError(f"{self._where} is to be {self.operator} {what}: give one number, or a date in quotes")

    @property
    def kind(self) -> str | None:
        """The kind of the values, of KINDS; None where only rows without a value are asked for."""
        return next(map(kind_of_value, self.compared), None)

    @property
    def compared(self) -> tuple[Scalar, ...]:
        """The values, None left out."""
        return tuple(value for value in self.values if value is not None)

    @property
    def _where(self) -> str:
        return f'the filter of "{named(str(self.column))}"'

    def _plain(self, value: Any) -> Scalar:
        """Return a value as Python's own. Raises InputError for what no column holds."""
        plain = value.item() if isinstance(value, np.generic) else value
        if plain is None or isinstance(plain, bool):
            return plain
        try:
            return text_value(plain) if isinstance(plain, str) else number_value(plain)
        except InputError as error:
            raise InputError(f"{self._where} names {shown(plain)}, {error}") from error


@dataclass(frozen=True)
class Filter:
    """Conditions that must all hold; without any, all rows may answer."""

    conditions: tuple[Condition, ...] = ()

    def __bool__(self) -> bool:
        """Return whether there is any condition."""
        return bool(self.conditions)

    @cached_property
    def key(self) -> str:
        """A sha256 that tells the filter from any other; true is not 1 here, as it is to `==`."""
        told = json.dumps([[one.column, one.operator, one.values] for one in self.conditions])
        return hashlib.sha256(told.encode()).hexdigest()


def parse_filter(value: Mapping[str, Any] | str) -> Filter:
    """Return a filter of the form above.

    Args:
        value: a mapping, or one in JSON.

    Raises:
        InputError: it is no JSON, names a key twice, or is of another form.
    """
    given = _decoded(value) if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise InputError(f"a filter is an object such as {FORM}, not {kind_of(given)}")
    conditions: list[Condition] = []
    for column, asked in given.items():
        if not isinstance(column, str):
            raise InputError(f"a filter names columns by words, not by {shown(column)}")
        conditions.extend(_conditions(column, asked))
    return Filter(tuple(conditions))


def as_filter(where: Filter | Mapping[str, Any] | None) -> Filter | None:
    """Return a filter, or what says one as `parse_filter` reads it; None for none. Raises InputError as that does."""
    return where if where is None or isinstance(where, Filter) else parse_filter(where)


def check_columns(where: Filter, kinds: Mapping[str, str | None]) -> None:
    """Raise InputError for a filter of columns that are not kept, or of values of another kind than theirs.

    Args:
        where: the filter.
        kinds: of each column that is kept, of KINDS; None for one that no row has a value of.
    """
    for condition in where.conditions:
        column, kind = named(condition.column), condition.kind
        if condition.column not in kinds:
            raise InputError(f'there is no column "{column}" to filter by{_kept(condition.column, kinds)}')
        held = kinds[condition.column]
        if kind is not None and held is not None and kind != held:
            value = condition.compared[0]
            raise InputError(
                f'the column "{column}" holds {KINDS[held]}, and the filter compares it with {shown(value)}: '
                f"give {KINDS[held]}"
            )


def named(column: str) -> str:
    """Return the name of a column as a message says it, a long one cut."""
    name = printable(column)
    return name if len(name) <= _SHOWN else f"{name[: _SHOWN - 3]}..."


def kind_of_value(value: Scalar) -> str:
    """Return the kind of a value that is one, of KINDS."""
    if isinstance(value, bool):  # before numbers, of which it is one to Python
        return "truth"
    return "text" if isinstance(value, str) else "number"


def text_value(value: str) -> str:
    """Return words that can be compared. Raises InputError, the end of a sentence, for blank and half characters."""
    if absent(value):
        raise InputError("which is no value: null asks for rows without one")
    if half_character(value):
        raise InputError("which holds half a character (a lone surrogate): write it as UTF-8")
    return value


def number_value(value: Any) -> float:
    """Return an int or float that can be kept and compared; -0.0 is 0.0.

    Raises InputError, the end of a sentence, for other values, NaN, infinite numbers, and whole ones beyond LARGEST.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise InputError("which is no text, number or truth value")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError("which is no finite number")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise InputError("which has more digits than numbers are compared by (2^53): write it in quotes, as text")
    return value if isinstance(value, int) else value + 0.0


def _kept(column: str, kinds: Iterable[str]) -> str:
    """Return the end of a sentence about a column that is none of those that are kept."""
    if not kinds:
        return ": nothing is kept beside the vectors; keep some with `mllm-embed encode --keep COLUMN`"
    some = list(map(named, kinds))
    more = ", ..." if len(some) > _LISTED else ""
    return f"{did_you_mean(column, kinds)} (there are: {', '.join(some[:_LISTED])}{more})"


def _conditions(column: str, asked: Any) -> Iterable[Condition]:
    """Yield what a filter asks of a column."""
    if not isinstance(asked, Mapping):
        yield Condition(column, SETS["="], _several(asked))
        return
    if not asked:
        raise InputError(f'the filter of "{named(column)}" is empty: give a value, or leave the column out')
    for operator, value in asked.items():
        if operator in RANGES:
            yield Condition(column, operator, _several(value))
        elif operator in SETS:
            yield Condition(column, SETS[operator], _several(value))
        else:
            raise InputError(
                f'the filter of "{named(column)}" has {shown(operator)} for an operator: give one of '
                f"{', '.join((*SETS, *RANGES))}"
            )


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _decoded(text: str) -> Any:
    """Return what a filter in JSON holds. Raises InputError where it is none."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the filter is no JSON such as {FORM} ({str(error)[:80]})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, in which nothing stands twice: the first would be dropped without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f'the filter names "{named(twice)}" twice: give all conditions of a column in one object')
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")
