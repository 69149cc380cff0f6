"""Columns beside vectors: what is kept of values, which rows fit a filter, and what a summary says."""

from __future__ import annotations

import datetime
import decimal
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mllm_embed.data.filters import parse_filter
from mllm_embed.errors import DataError
from mllm_embed.store.columns import FREQUENT, Columns, ColumnSummary
from rows_with_values import fits, random_filter, random_rows


def test_what_is_kept_of_a_value() -> None:
    given = {
        "words": "red",
        "whole": 3,
        "numpy": np.float32(0.5),
        "decimal": decimal.Decimal("19.99"),
        "truth": np.bool_(True),
        "date": datetime.date(2026, 1, 31),
        "moment": datetime.datetime(2026, 1, 31, 12, 30),
        "bytes": "é".encode(),
        "list": ["a", None, "b", ""],
        "array": np.arange(2),
    }
    nothing = {"null": None, "nan": float("nan"), "blank": " \t", "empty": [], "nulls": [None, "  "]}
    columns = Columns.of([{}, given | nothing])
    kept = given | {
        "numpy": 0.5,
        "decimal": 19.99,
        "truth": True,
        "date": "2026-01-31",
        "moment": "2026-01-31T12:30:00",
        "bytes": "é",
        "list": ["a", "b"],
        "array": [0, 1],
    }
    assert columns.rows([1, 0]) == [kept, {}] and len(columns) == 2
    assert type(columns.rows([1])[0]["whole"]) is int and columns.names == [*given, *nothing]
    assert columns.kinds == {
        "words": "text", "whole": "number", "numpy": "number", "decimal": "number", "truth": "truth", "date": "text",
        "moment": "text", "bytes": "text", "list": "text", "array": "number", **dict.fromkeys(nothing),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": 1}, "the id of a row is kept anyway"),
        ({1: 2}, "the int 1 names no column to keep"),
        ({" ": 2}, 'the str " " names no column'),
        ({"\ud800": 2}, "names no column to keep: give it a name in letters"),
        (None, "the metadata of row 2 is a NoneType: give a mapping such as"),
        ([("price", 1)], "the metadata of row 2 is a list: give a mapping"),
        (
            {"price": b"\xff"},
            'the column "price" of row 2 holds the bytes .*, which is no UTF-8 text: write it as text',
        ),
    ],
)
def test_what_names_no_column(row: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Columns.of([{}, row])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, "x"], 'the column "c" holds numbers in row 1 and words in row 2: write all of it as one kind'),
        ([True, 1], "holds true and false in row 1 and numbers in row 2"),
        ([None, ["a", 1]], "holds words in row 2 and numbers in row 2"),
        ([{"a": 1}], 'the column "c" of row 1 holds the dict .*, which is no text, number or truth value'),
        ([[["a"]]], "of row 1 holds the list .*, which is no text"),
        ([0, float("inf")], "of row 2 holds the float Infinity, which is no finite number"),
        ([2**53 + 1], "of row 1 holds the int 9007199254740993, which has more digits"),
        (["\ud83d"], "which holds half a character"),
        ([b"\xff"], "of row 1 holds the bytes .*, which is no UTF-8 text: write it as text"),
    ],
)
def test_what_is_not_kept(values: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        Columns.of([{"c": value} for value in values])


def test_a_table_of_other_types_is_refused() -> None:
    with pytest.raises(DataError, match='the column "c" is of type timestamp'):
        Columns(pa.table({"c": pa.array([1], pa.timestamp("s"))}))


def test_rows_come_together() -> None:
    parts: list[list[dict[str, Any]]] = [
        [{"a": 1, "b": "x"}, {}],
        [{"a": 2.5, "b": ["x", "y"], "c": True}],
        [{}],
        [],
        [{"a": [3, 0.5], "b": None}, {"d": "new"}],
    ]
    columns = Columns.concat([Columns.of(part) for part in parts])
    assert len(columns) == 6 and columns.names == ["a", "b", "c", "d"]
    assert columns.rows(range(6)) == [
        {"a": [1.0], "b": ["x"]},
        {},
        {"a": [2.5], "b": ["x", "y"], "c": True},
        {},
        {"a": [3.0, 0.5]},
        {"d": "new"},
    ]
    assert columns.take([5, 0]).rows([0, 1]) == [{"d": "new"}, {"a": [1.0], "b": ["x"]}]
    assert columns.mask(parse_filter({"a": {"<=": 1}})).tolist() == [True, False, False, False, True, False]
    assert len(Columns.concat([Columns.of([{}]), Columns.of([{}, {}])])) == 3 and len(Columns.concat([])) == 0
    with pytest.raises(DataError, match='the column "a" holds numbers and words: write all of it as one kind'):
        Columns.concat([Columns.of([{"a": 1}]), Columns.of([{"a": "1"}])])
    read = Columns(columns.table.cast(pa.schema([(f.name, f.type) for f in columns.table.schema])))
    assert read.kinds == columns.kinds


def test_whole_numbers_stay_whole_and_large_ones_are_told_apart() -> None:
    columns = Columns.concat([Columns.of([{"n": 2**53}, {"n": 2**53 - 1}]), Columns.of([{"n": None}])])
    assert columns.rows([0, 1]) == [{"n": 2**53}, {"n": 2**53 - 1}] and type(columns.rows([0])[0]["n"]) is int
    assert columns.mask(parse_filter({"n": 2**53})).tolist() == [True, False, False]
    assert columns.mask(parse_filter({"n": {"<": float(2**53)}})).tolist() == [False, True, False]
    assert Columns.of([{"n": 0.0}, {"n": -0.0}]).mask(parse_filter({"n": [0, 1, 2, 3, 4, 5]})).all()


@pytest.mark.parametrize("seed", range(8))
def test_random_filters_let_through_what_their_meaning_says(seed: int) -> None:
    chance = random.Random(seed)
    rows = random_rows(chance, 150)
    whole = Columns.of(rows)
    cuts = sorted(chance.sample(range(150), 3))
    parts = [Columns.of(rows[start:stop]) for start, stop in zip([0, *cuts], [*cuts, 150], strict=True)]
    order = chance.sample(range(150), 90)
    through = set()
    for _ in range(60):
        asked = random_filter(chance, rows)
        right = [fits(row, asked) for row in rows]
        where = parse_filter(asked)
        assert whole.mask(where).tolist() == right, asked
        assert Columns.concat(parts).mask(where).tolist() == right, asked
        assert whole.take(order).mask(where).tolist() == [right[row] for row in order], asked
        assert Columns(whole.table.slice(20, 100)).mask(where).tolist() == right[20:120], asked
        through.add(sum(right))
    assert len(through) > 15  # it is no test where all or nothing comes through


def test_a_summary_counts_rows() -> None:
    rows: list[dict[str, Any]] = [
        {"colour": "red", "sizes": ["S", "M", "S"], "new": True, "price": 3, "none": None},
        {"colour": "blue", "sizes": ["M"], "price": 2.5},
        {"colour": "red", "new": False},
        {"colour": "green", "new": True, "price": [9, 3]},
    ]
    columns = Columns.of(rows)
    assert columns.summary() == {
        "colour": ColumnSummary("text", {"red": 2, "blue": 1, "green": 1}),
        "sizes": ColumnSummary("text", {"M": 2, "S": 1}),
        "new": ColumnSummary("truth", {True: 2, False: 1}),
        "price": ColumnSummary("number", {3.0: 2, 2.5: 1, 9.0: 1}, 2.5, 9.0),
    }
    assert list(columns.summary()["colour"].values or ()) == ["red", "blue", "green"]
    two = columns.summary(np.array([False, True, True, False]))
    assert two["price"] == ColumnSummary("number", {2.5: 1}, 2.5, 2.5) and two["new"].values == {False: 1}
    assert columns.summary(np.zeros(4, bool)) == {} == Columns.of([]).summary()
    many = Columns.of([{"n": n, "t": f"{n:03d}"} for n in range(FREQUENT + 1)]).summary()
    assert many["n"] == ColumnSummary("number", None, 0, FREQUENT)
    assert list(many["t"].values or ()) == [f"{n:03d}" for n in range(FREQUENT)]
