"""Kept columns in a column of JSON: filters and summaries as SQL.

Names of columns and values are parameters of a statement, never part of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import Any

from ..data.filters import RANGES, Condition, Filter
from ..store.columns import FREQUENT, ColumnSummary

KIND_OF = {"string": "text", "number": "number", "boolean": "truth"}
"""The kinds of columns, by what JSON calls the type of their values."""
_FEW = 4  # values that are looked for one after the other
SUMMARY = """
WITH held AS (
    SELECT name, item, jsonb_typeof(item) AS type
    FROM {table}, jsonb_each(metadata) AS kept (name, value),
        LATERAL (SELECT DISTINCT item FROM jsonb_path_query(value, '$[*]') AS item) AS items
    WHERE jsonb_typeof(item) IN ('string', 'number', 'boolean')
), counted AS (
    SELECT name, type, item, count(*) AS rows FROM held GROUP BY name, type, item
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY name ORDER BY rows DESC, number, item #>> '{{}}' COLLATE "C") AS place,
        min(number) OVER (PARTITION BY name) AS least, max(number) OVER (PARTITION BY name) AS most
    FROM (SELECT *, CASE WHEN type = 'number' THEN (item #>> '{{}}')::float8 END AS number FROM counted) AS counted
)
SELECT name, type, item, rows, least, most FROM ranked WHERE place <= %(places)s ORDER BY name COLLATE "C", place
"""
"""What the columns of a table hold, for `column_summaries`: a row for each of the most frequent values of each."""
SUMMARY_PLACES = FREQUENT + 1  # one more, to tell that there are more


def column_summaries(rows: Iterable[tuple[Any, ...]]) -> dict[str, ColumnSummary]:
    """Return the summary of each column, of the rows that SUMMARY gives."""
    found = {}
    for name, group in groupby(rows, itemgetter(0)):
        some = list(group)
        kind = KIND_OF[some[0][1]]
        values = {item: count for _, _, item, count, _, _ in some}
        if kind == "number":
            found[name] = ColumnSummary(kind, values if len(values) <= FREQUENT else None, some[0][4], some[0][5])
        else:
            found[name] = ColumnSummary(kind, dict(list(values.items())[:FREQUENT]))
    return found


def filter_conditions(where: Filter) -> tuple[list[str], dict[str, Any]]:
    """Return what must hold of a row as SQL conditions on its column `metadata`, and the parameters that they name.

    Whether the table keeps such columns, and of these kinds, is looked at elsewhere: here what does not fit is found
    nowhere, as in `Columns.mask`.
    """
    conditions: list[str] = []
    values: dict[str, Any] = {}
    for number, condition in enumerate(where.conditions):
        text, some = _of(condition, f"f{number}")
        conditions.append(text)
        values |= some
    return conditions, values


def _of(condition: Condition, name: str) -> tuple[str, dict[str, Any]]:
    """Return a condition, and its parameters, whose names begin with `name`."""
    if condition.operator in RANGES:
        # lax paths look into a list, and take what stands alone as a list of one; another kind of value fits nothing
        text = f"coalesce(jsonb_path_exists(metadata -> %({name})s, %({name}path)s::jsonpath, %({name}than)s), false)"
        path = f"$[*] ? (@ {condition.operator} $than)"
        return text, {
            name: condition.column,
            f"{name}path": path,
            f"{name}than": _json({"than": condition.compared[0]}),
        }
    texts, values = (_few if len(condition.compared) <= _FEW else _many)(condition, name)
    if None in condition.values:
        texts.append(f"NOT jsonb_exists(metadata, %({name})s)")
        values[name] = condition.column
    text = f"({' OR '.join(texts)})"
    return (f"NOT {text}" if condition.operator == "not in" else text), values


def _few(condition: Condition, name: str) -> tuple[list[str], dict[str, Any]]:
    """Return what holds for one of several values, alone or in a list: containment, for which there is an index."""
    held = [form for value in condition.compared for form in (value, [value])]
    values = {f"{name}_{number}": _json({condition.column: form}) for number, form in enumerate(held)}
    return [f"metadata @> %({key})s" for key in values], values


def _many(condition: Condition, name: str) -> tuple[list[str], dict[str, Any]]:
    """Return the same for many values, which the server looks up in a table of its own."""
    items = f"jsonb_path_query(metadata -> %({name})s, '$[*]') AS item"
    some = [json.dumps(value) for value in condition.compared]
    return [f"EXISTS (SELECT FROM {items} WHERE item = ANY(%({name}some)s::jsonb[]))"], {
        name: condition.column,
        f"{name}some": some,
    }


def _json(value: Any) -> Any:
    from psycopg.types.json import Jsonb

    return Jsonb(value)
