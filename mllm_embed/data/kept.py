"""Columns of rows that are kept beside their vectors: the values of a source, column by column."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from ..errors import ConfigError, DataError, InputError, did_you_mean
from ..errors import kind_of as kind_of_value
from ..text import half_character, printable
from .filters import LARGEST
from .tables import KEY, PICTURE, UNTYPED, Record, Table, kind_of
from .values import absent, decoded, shown

Values = dict[str, list[Any]]
"""From the name of a column to its value in each row, None where the row has none."""
ID = "id"
OBJECT = "json"
"""The member of a tar shard's sample that holds columns."""
_LOOKED_AT = 100  # records whose columns a message may name
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def check_names(names: Iterable[Any]) -> None:
    """Raise InputError for the name of a column that cannot be kept: the id, which is kept anyway, and what is none."""
    for name in names:
        if name == ID:
            raise InputError("the id of a row is kept anyway: leave the column 'id' out")
        if not isinstance(name, str) or not name.strip() or half_character(name):
            raise InputError(f"{shown(name)} names no column to keep: give it a name in letters")


def column_names(rows: Sequence[Any]) -> list[str]:
    """Return the names of the columns that rows have values of, in order.

    Args:
        rows: a mapping each, from the name of a column to its value.

    Raises InputError for a row that is no mapping, and as `check_names`.
    """
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InputError(
                f"the metadata of row {number} is {kind_of_value(row)}: give a mapping such as {{'price': 3}}"
            )
    names = list(dict.fromkeys(chain.from_iterable(rows)))
    check_names(names)
    return names


def table_values(table: Table, names: Sequence[str], where: Callable[[int], str]) -> Values:
    """Return the values of those of these columns that some record has.

    A tar shard's sample has the columns of the object in its json, and its members that are texts. Cells of CSV and
    TSV, which are all texts, are numbers, or truth values, where all of a column's are.

    Args:
        table: of the records.
        names: of the columns.
        where: how a message names a record.

    Raises DataError naming the record for one that is not as its file type demands, and for pictures.
    """
    # bytes are read too: they may be words, and PICTURE would stand for each of them
    found = record_values(_worded(table.scan({OBJECT, *names}, set(names)), names, where), names)
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
    """Return the columns of the first records that could be kept, for a message."""
    some = islice(table.scan({OBJECT, *table.columns()}), _LOOKED_AT)
    records = [_columns_of(record) for record in some if not isinstance(record, DataError)]
    found = dict.fromkeys(name for record in records for name, value in record.items() if value is not PICTURE)
    return list(found)


def check_there(wanted: Sequence[str], found: Iterable[str], known: Iterable[str] | None, place: str) -> None:
    """Raise ConfigError for a column to keep that no row has.

    Args:
        wanted: the columns that were asked for.
        found: those that some row has.
        known: columns that could have been meant; None where there can be none.
        place: what was looked through, in words.
    """
    there, known = set(found), None if known is None else list(known)
    for name in wanted:
        if name not in there:
            if known is None:
                raise ConfigError(f"--keep {name}: {place} has no columns; they come from files of rows")
            raise ConfigError(f"--keep {name}: no row of {place} has a column '{name}'{did_you_mean(name, known)}")


def _worded(
    records: Iterable[Record | DataError], names: Sequence[str], where: Callable[[int], str]
) -> Iterator[Mapping[str, Any]]:
    """Yield the columns of records, bytes as the words that they are. Raises DataError as `table_values`."""
    for row, record in enumerate(records):
        if isinstance(record, DataError):
            raise DataError(f"{where(row)}: {record}") from record
        columns = dict(_columns_of(record))
        for name in names:
            try:
                columns |= {name: _words(columns[name])} if name in columns else {}
            except DataError as error:  # at the first: pictures of all rows need not fit into memory
                raise DataError(f'the column "{printable(name)}" of {where(row)} {error}') from error
        yield columns


def _words(value: Any) -> Any:
    """Return bytes as text, other values as they are. Raises DataError, the end of a sentence, for pictures."""
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):  # as `datasets` writes pictures
        raise DataError("holds pictures, which are not kept: leave it out")
    return decoded(value) if isinstance(value, bytes) else value


def _columns_of(record: Record) -> Mapping[str, Any]:
    """Return the columns of a record; those of a tar shard's sample lie in its object and beside it."""
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
