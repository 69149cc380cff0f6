"""What is kept beside vectors to filter by and to show: columns of words, numbers or truth values, a row each.

A row may have no value, one, or a list. Dates become words in ISO form. All is held as Arrow has it, so that a filter
is asked of a million rows in milliseconds and a Parquet file needs no change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.filters import Condition, Filter, check_columns
from ..data.kept import column_names
from .kept.column_values import as_type, column_of, element_of, kind_of_field, one_type

if TYPE_CHECKING:
    import pyarrow as pa

FREQUENT = 50
"""The values of a column that a summary counts, the most frequent ones."""
_RANGES = {"<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}  # as Arrow calls them
_PIECE = 1 << 30  # bytes; Arrow's words of one piece end at twice that
_SOME = 10_000  # rows that may show that a column of numbers has more values than are counted
_FEW = 4  # values that are compared one after the other: to look them up in a table takes as long


@dataclass(frozen=True)
class ColumnSummary:
    """What a column holds.

    Args:
        kind: of `filters.KINDS`.
        values: how many rows have a value, for the FREQUENT most frequent ones, the most frequent first and equally
            frequent ones in order; None for numbers where there are more than that.
        least, most: of numbers; None elsewhere.
    """

    kind: str
    values: dict[str | bool | float, int] | None
    least: float | None = None
    most: float | None = None


class Columns:
    """The kept values of N rows, aligned with their numbers; never written to."""

    def __init__(self, table: pa.Table, rows: int | None = None):
        """Hold a table of words (string), numbers (int64, double), truth values (bool), lists of these, or nulls.

        Args:
            table: what `of` and `concat` make, or the same read from a file.
            rows: N, where the table has no column to tell it.

        Raises:
            DataError: a column is of another type.
        """
        self.table, self._rows = table, len(table) if rows is None else rows
        self.kinds: dict[str, str | None] = {field.name: kind_of_field(field) for field in table.schema}

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Columns:
        """Take the values of rows, by the names of their columns; what a row leaves out, or is null, it has none of.

        Raises:
            DataError: a value is nested, not finite, no text, or a number beyond 2^53; or a column holds values of more
                than one kind; or a row is no mapping, or names what no column is called.
        """
        import pyarrow as pa

        names = column_names(rows)
        return cls(pa.table({name: column_of(name, _values(rows, name)) for name in names}), len(rows))

    @classmethod
    def concat(cls, parts: Sequence[Columns]) -> Columns:
        """Put rows one after the other; where some have no column of a name, they have no value there.

        Raises:
            DataError: a column is of another kind in one than in another.
        """
        import pyarrow as pa

        arrays = {}
        for name in dict.fromkeys(chain.from_iterable(part.names for part in parts)):
            columns = [part.column(name) for part in parts]
            kind = one_type(name, {column.type for column in columns})
            chunks = [as_type(column, kind).chunks for column in columns]
            arrays[name] = _whole(pa.chunked_array(list(chain.from_iterable(chunks)), kind))
        return cls(pa.table(arrays), sum(map(len, parts)))

    def __len__(self) -> int:
        """Return N."""
        return self._rows

    @property
    def names(self) -> list[str]:
        """The columns, in order."""
        return list(self.kinds)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return the values of a column, nulls where it is not there."""
        import pyarrow as pa

        return self.table[name] if name in self.kinds else pa.chunked_array([pa.nulls(len(self))])

    def mask(self, where: Filter) -> np.ndarray:
        """Return which rows fit a filter: [N] bool.

        Raises:
            DataError: there is no such column, or it holds values of another kind.
        """
        check_columns(where, self.kinds)
        fit = np.ones(len(self), bool)
        for condition in where.conditions:
            chunks = [_fit(chunk, condition) for chunk in self.table[condition.column].chunks]
            fit &= np.concatenate(chunks) if chunks else fit
        return fit

    def rows(self, numbers: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Return the values of rows by their numbers, as plain ones; those that a row has not got are left out."""
        if not self.kinds:
            return [{} for _ in numbers]
        return list(map(_there, self.table.take(np.asarray(numbers, np.int64)).to_pylist()))

    def take(self, numbers: Sequence[int] | np.ndarray) -> Columns:
        """Return the rows of these numbers, in their order."""
        numbers = np.asarray(numbers, np.int64)
        return Columns(self.table.take(numbers) if self.kinds else self.table, len(numbers))

    def summary(self, alive: np.ndarray | None = None) -> dict[str, ColumnSummary]:
        """Return what the columns hold, those left out that hold nothing.

        Args:
            alive: [N] bool, the rows that are counted; None for all.
        """
        columns = self if alive is None or alive.all() else self.take(np.flatnonzero(alive))
        found = {}
        for name, kind in columns.kinds.items():
            values = columns.table[name]
            if kind is not None and values.null_count < len(values):
                found[name] = _SUMMARIES[kind](values)
        return found


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return [row.get(name) for row in rows]


def _there(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def _whole(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values of a column in one piece, which is looked through three times as fast as in hundreds."""
    import pyarrow as pa

    return pa.chunked_array([values.combine_chunks()]) if values.nbytes < _PIECE else values


def _fit(values: pa.Array, condition: Condition) -> np.ndarray:
    """Return which values of a part of a column fit a condition: [n] bool."""
    compared = condition.compared
    fit = _any(values, lambda some: _compared(some, condition.operator, compared)) if compared else _none(values)
    if None in condition.values:
        fit |= np.asarray(values.is_null())
    return ~fit if condition.operator == "not in" else fit


def _none(values: pa.Array) -> np.ndarray:
    return np.zeros(len(values), bool)


def _any(values: pa.Array, fits: Callable[[pa.Array], np.ndarray]) -> np.ndarray:
    """Return where any of a row's values fits: [n] bool."""
    import pyarrow.compute as pc
    import pyarrow.types as types

    if types.is_null(values.type):
        return _none(values)
    if element_of(values.type) == values.type:
        return fits(values)
    fit = _none(values)
    fit[np.asarray(pc.list_parent_indices(values))[fits(values.flatten())]] = True
    return fit


def _compared(values: pa.Array, operator: str, compared: Sequence[Any]) -> np.ndarray:
    """Return which values that are no lists are one of those compared, or in the range of the one: [n] bool."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if operator in _RANGES:
        found = pc.call_function(_RANGES[operator], [values, _scalar(values, compared[0])])
    elif len(compared) <= _FEW:
        found = pc.equal(values, _scalar(values, compared[0]))
        for other in compared[1:]:
            found = pc.or_(found, pc.equal(values, _scalar(values, other)))
    else:
        kind = _scalar(values, compared[0]).type
        found = pc.is_in(values.cast(kind), value_set=pa.array(list(compared), kind))
    return np.asarray(pc.fill_null(found, False))


def _scalar(values: pa.Array, value: Any) -> pa.Scalar:
    """Return a value as Arrow compares it with others, numbers as floats of 64 bits."""
    import pyarrow as pa

    return pa.scalar(value, values.type) if isinstance(value, (str, bool)) else pa.scalar(float(value), pa.float64())


def _counted(values: pa.ChunkedArray) -> list[tuple[Any, int]]:
    """Return how many rows have each value, the most frequent first, equally frequent ones in order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    flat = values
    if element_of(values.type) != values.type:  # a row counts once for a value that its list names twice
        whole = values.combine_chunks()
        pairs = pa.table({"row": pc.list_parent_indices(whole), "value": whole.flatten()})
        flat = pairs.group_by(["row", "value"]).aggregate([])["value"]
    counts = pc.value_counts(flat.drop_null())
    table = pa.table({"value": counts.field(0), "count": counts.field(1)})
    order = pc.select_k_unstable(table, FREQUENT + 1, [("count", "descending"), ("value", "ascending")])
    return [(row["value"], row["count"]) for row in table.take(order).to_pylist()]


def _of_names(kind: str) -> Callable[[pa.ChunkedArray], ColumnSummary]:
    return lambda values: ColumnSummary(kind, dict(_counted(values)[:FREQUENT]))


def _of_numbers(values: pa.ChunkedArray) -> ColumnSummary:
    import pyarrow.compute as pc

    bounds = pc.min_max(_flat(values)).as_py()
    many = len(pc.unique(_flat(values.slice(0, _SOME)).drop_null())) > FREQUENT
    counted = [] if many else _counted(values)
    counts = None if many or len(counted) > FREQUENT else dict(counted)
    return ColumnSummary("number", counts, bounds["min"], bounds["max"])


def _flat(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values of a column, out of their lists."""
    import pyarrow.compute as pc

    return values if element_of(values.type) == values.type else pc.list_flatten(values)


_SUMMARIES = {"text": _of_names("text"), "truth": _of_names("truth"), "number": _of_numbers}
