"""Random rows with values, random filters of them, and what a filter means in plain Python."""

from __future__ import annotations

import operator
import random
from typing import Any

WORDS = [
    "red",
    "blue",
    "Red",
    "it's",
    'the "best"',
    "a.b",
    "naïve",
    "2026-01-31",
    "10",
    "true",
    "\\",
    "%",
    "\U0001f600",
]
NUMBERS = [0, 1, 2, -1, 10, 0.5, -0.0, 2.0, 1e300, 2**53, -3.25]
COLUMNS: dict[str, list[Any]] = {
    "colour": WORDS,
    "price": NUMBERS,
    "whole": [0, 1, 2, 3, 10],
    "in stock": [True, False],
    "a.b": WORDS,
    "Größe (cm)": NUMBERS,
    "it's": ["x", "y"],
    "tags": WORDS,
    "sizes": NUMBERS,
    "truths": [True, False],
}
LISTS = ("tags", "sizes", "truths")
RANGES = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def random_rows(chance: random.Random, count: int) -> list[dict[str, Any]]:
    """Return rows of which some have no value of a column, or null; of LISTS a list, perhaps of nothing."""
    rows = []
    for _ in range(count):
        row: dict[str, Any] = {}
        for name, values in COLUMNS.items():
            if chance.random() < 0.7:
                row[name] = chance.choices(values, k=chance.randrange(4)) if name in LISTS else chance.choice(values)
            elif chance.random() < 0.3:
                row[name] = None
        rows.append(row)
    return rows


def random_filter(chance: random.Random, rows: list[dict[str, Any]], ranges_of_words: bool = True) -> dict[str, Any]:
    """Return a filter of one to three columns that rows have."""
    return {name: _asked(chance, name, ranges_of_words) for name in chance.sample(list(COLUMNS), chance.randint(1, 3))}


def _asked(chance: random.Random, name: str, ranges_of_words: bool) -> Any:
    values = COLUMNS[name]
    kind = type(values[0])
    some = chance.sample(values, chance.randint(1, min(7, len(values))))
    if chance.random() < 0.2:
        some.append(None)
    forms: list[Any] = [some, {"!=": some}, {"=": some}, chance.choice(some), None, {"!=": None}]
    if kind is not bool and (kind is not str or ranges_of_words):
        bounds = {sign: chance.choice(values) for sign in chance.sample(list(RANGES), chance.randint(1, 2))}
        forms += [bounds, bounds, bounds | {"!=": some[0]}]
    return chance.choice(forms)


def fits(row: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Return whether a row fits a filter, as the form says."""
    return all(_holds(row.get(column), wanted) for column, wanted in asked.items())


def _holds(value: Any, wanted: Any) -> bool:
    held = value if isinstance(value, list) else [] if value is None else [value]
    if not isinstance(wanted, dict):
        return _is_one(held, wanted)
    return all(_compares(held, sign, bound) for sign, bound in wanted.items())


def _compares(held: list[Any], sign: str, bound: Any) -> bool:
    if sign in RANGES:
        return any(RANGES[sign](one, bound) for one in held)
    return _is_one(held, bound) == (sign == "=")


def _is_one(held: list[Any], wanted: Any) -> bool:
    some = wanted if isinstance(wanted, list) else [wanted]
    return (None in some and not held) or any(one in some for one in held)
