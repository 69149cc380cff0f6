"""From values to columns as Arrow holds them: what is kept of a value, and the type that holds all of a column."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.filters import KINDS, LARGEST, kind_of_value, number_value
from ...data.values import absent, shown
from ...errors import InputError
from ...text import half_character, printable

if TYPE_CHECKING:
    import pyarrow as pa


def _counted(row: int) -> str:
    return f"row {row + 1}"


def column_of(name: str, values: Sequence[Any], where: Callable[[int], str] = _counted) -> pa.Array:
    """Return the values of a column [N] as Arrow holds them.

    Args:
        name: of the column.
        values: of its rows, None for none.
        where: how a message names the row at a place, from 0.

    Raises InputError naming column and row for a value that no column holds, and for values of several kinds.
    """
    import pyarrow as pa

    kept = [_kept_in(name, value, row, where) for row, value in enumerate(values)]
    flat = [one for value in kept for one in _listed(value)]
    kinds = set(map(kind_of_value, flat))
    if len(kinds) > 1:
        raise _mixed(name, _first_of_each(kept, where))
    kind = _type_of(next(iter(kinds), None), flat)
    if not any(isinstance(value, list) for value in kept):
        return pa.array(kept, kind)
    # a column has one type: what stands alone is a list of one
    return pa.array([_listed(value) or None for value in kept], pa.list_(kind))


def _kept_in(name: str, value: Any, row: int, where: Callable[[int], str]) -> Any:
    """Return a value of a column as `_kept`. Raises InputError naming column and row."""
    try:
        return _kept(value)
    except InputError as error:
        raise InputError(f'the column "{printable(name)}" of {where(row)} holds {shown(value)}, {error}') from error


def _listed(value: Any) -> list[Any]:
    """Return a kept value as a list, empty for none."""
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def _first_of_each(kept: Sequence[Any], where: Callable[[int], str]) -> list[str]:
    """Return what a column of several kinds holds, and in which row each kind comes first."""
    first: dict[str, int] = {}
    for row, value in enumerate(kept):
        for one in _listed(value):
            first.setdefault(kind_of_value(one), row)
    return [f"{KINDS[kind]} in {where(row)}" for kind, row in first.items()]


def _type_of(kind: str | None, values: Iterable[Any]) -> pa.DataType:
    """Return Arrow's type of values of one kind."""
    import pyarrow as pa

    if kind == "number":
        return pa.float64() if any(isinstance(value, float) for value in values) else pa.int64()
    return {"text": pa.string(), "truth": pa.bool_(), None: pa.null()}[kind]


def _kept(value: Any) -> Any:
    """Return a value as it is kept: plain, None for nothing; of a list what it holds. Raises InputError for others."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        some = [_plain(one) for one in value]
        return [one for one in some if one is not None] or None
    return _plain(value)


def _plain(value: Any) -> Any:
    """Return a single value as `_kept`."""
    if isinstance(value, np.generic):
        value = value.item()
    if absent(value):
        return None
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        value = _text_of(value)
    if isinstance(value, str):
        if half_character(value):
            raise InputError("which holds half a character (a lone surrogate): write it as UTF-8")
        return value
    if isinstance(value, bool):
        return value
    return number_value(_binary(value) if isinstance(value, decimal.Decimal) else value)


def _text_of(value: bytes) -> str:
    """Return bytes as the text that they are. Raises InputError, the end of a sentence, where they are none."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InputError("which is no UTF-8 text: write it as text") from error


def _binary(value: decimal.Decimal) -> float:
    """Return a decimal number as one that is compared; one beyond LARGEST as a whole one, which is refused."""
    return int(value) if value.is_finite() and abs(value) > LARGEST else float(value)


def kind_of_field(field: pa.Field) -> str | None:
    """Return the kind of a column, None for one of nulls. Raises InputError for a type that no column has."""
    import pyarrow.types as types

    kind = element_of(field.type)
    if types.is_null(kind):
        return None
    if types.is_boolean(kind):
        return "truth"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_int64(kind) or types.is_float64(kind):
        return "number"
    raise InputError(
        f'the column "{printable(field.name)}" is of type {field.type}: only words, whole numbers of 64 bits, doubles, '
        "truth values and lists of these are kept"
    )


def element_of(kind: pa.DataType) -> pa.DataType:
    """Return the type of what a list holds, or the type itself."""
    import pyarrow.types as types

    return kind.value_type if types.is_list(kind) or types.is_large_list(kind) else kind


def one_type(name: str, held: set[pa.DataType]) -> pa.DataType:
    """Return the type that holds values of all these types. Raises InputError, naming the column, for several kinds."""
    import pyarrow as pa
    import pyarrow.types as types

    kinds = {kind_of_field(pa.field(name, one)) for one in held} - {None}
    if len(kinds) > 1:
        raise _mixed(name, sorted(KINDS[str(kind)] for kind in kinds))
    elements = {element for element in map(element_of, held) if not types.is_null(element)} or {pa.null()}
    one = elements.pop() if len(elements) == 1 else _wider(elements)
    return pa.list_(one) if held != set(map(element_of, held)) else one


def _wider(elements: set[pa.DataType]) -> pa.DataType:
    """Return the type that holds values of one kind and several types."""
    import pyarrow as pa

    return pa.float64() if pa.float64() in elements else pa.large_string()


def as_type(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return the values of a column in a wider type: what stands alone as a list of one, where lists are asked for."""
    import pyarrow as pa
    import pyarrow.types as types

    if values.type == kind:
        return values
    if element_of(kind) == kind or element_of(values.type) != values.type or types.is_null(values.type):
        return values.cast(kind)
    return pa.chunked_array([_as_lists(chunk.cast(element_of(kind)), kind) for chunk in values.chunks], kind)


def _as_lists(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return values as lists of one each, of a type of lists; nulls stay nulls."""
    import pyarrow as pa

    there = np.asarray(values.is_valid())
    ends = np.concatenate([[0], np.cumsum(there)]).astype(np.int32)
    return pa.ListArray.from_arrays(ends, values.drop_null(), type=kind, mask=pa.array(~there))


def _mixed(name: str, held: Sequence[str]) -> InputError:
    return InputError(f'the column "{printable(name)}" holds {" and ".join(held)}: write all of it as one kind')
