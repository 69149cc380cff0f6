"""Columns of rows that are kept beside their vectors: the values of a source, column by column."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import ConfigError, DataError, did_you_mean
from ..text import half_character
from .filters import LARGEST
from .tables import KEY, PICTURE, UNTYPED, Record, Table, kind_of
from .values import absent, shown

Values = dict[str, list[Any]]
"""From the name of a column to its value in each row, None where the row has none."""
ID = "id"
OBJECT = "json"
"""The member of a tar shard's sample that holds columns."""
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def check_names(names: Iterable[Any]) -> None:
    """Raise DataError for the name of a column that cannot be kept: the id, which is kept anyway, and what is none."""
    for name in names:
        if name == ID:
            raise DataError("the id of a row is kept anyway: leave the column 'id' out")
        if not isinstance(name, str) or not name.strip() or half_character(name):
            raise DataError(f"{shown(name)} names no column to keep: give it a name in letters")


def table_values(table: Table, names: Sequence[str]) -> Values:
    """Return the values of those of these columns that some record has.

    A tar shard's sample has the columns of the object in its json, and its members that are texts. Cells of CSV and
    TSV, which are all texts, are numbers, or truth values, where all of a column's are.
    """
    # pictures are never asked for, so that none is read
    records = table.scan({OBJECT, *names})
    found = record_values(map(_columns_of, records), names)
    if kind_of(table.files[0]) in UNTYPED:
        return {name: _typed(cells) for name, cells in found.items()}
    return found


def record_values(records: Iterable[Mapping[str, Any]], names: Sequence[str]) -> Values:
    """Return the values of those of these columns that some record has."""
    values: Values = {name: [] for name in names}
    lacking = set(names)
    for record in records:
        if lacking:
            lacking.difference_update(record)
        for name, cells in values.items():
            value = record.get(name)
            cells.append(None if absent(value) else value)
    return {name: cells for name, cells in values.items() if name not in lacking}


def table_columns(table: Table) -> list[str]:
    """Return the columns of the first record that could be kept, for a message."""
    first = next(table.scan({OBJECT, *table.columns()}))
    return [name for name, value in _columns_of(first).items() if value is not PICTURE]


def check_there(wanted: Sequence[str], found: Iterable[str], known: Iterable[str], place: str) -> None:
    """Raise ConfigError for a column to keep that no row has.

    Args:
        wanted: the columns that were asked for.
        found: those that some row has.
        known: columns that could have been meant.
        place: what was looked through, in words.
    """
    there, known = set(found), list(known)
    for name in wanted:
        if name not in there:
            if not known:
                raise ConfigError(f"--keep {name}: {place} has no columns; they come from files of rows")
            raise ConfigError(f"--keep {name}: no row of {place} has a column '{name}'{did_you_mean(name, known)}")


def _columns_of(record: Record | DataError) -> Mapping[str, Any]:
    """Return the columns of a record; those of a tar shard's sample lie in its object and beside it.

    Raises DataError for one that is not as its file type demands.
    """
    if isinstance(record, DataError):
        raise record
    if KEY not in record:
        return record
    inside = record.get(OBJECT)
    beside = {name: value for name, value in record.items() if name not in (KEY, OBJECT) and value is not PICTURE}
    return beside | inside if isinstance(inside, dict) else beside


def _typed(cells: list[Any]) -> list[Any]:
    """Return the cells of a column of texts as truth values or numbers where all of them are; else as they are."""
    there = {cell for cell in cells if cell is not None}
    for read in (_TRUTHS.get, _number):
        found = {cell: read(cell) for cell in there}
        if None not in found.values():
            return [found.get(cell) for cell in cells]
    return cells


def _number(cell: str) -> int | float | None:
    """Return the number that a text is, None for other texts: 007 is a name, and so is what no number can hold."""
    match = _NUMBER.fullmatch(cell)
    if match is None:
        return None
    if match[1] is None and match[2] is None:
        whole = int(cell)
        return whole if abs(whole) <= LARGEST else None
    value = float(cell)
    return value if math.isfinite(value) else None
