"""Filters as they are written: what each form asks, and what is refused, in one sentence."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mllm_embed.data.filters import Condition, Filter, check_columns, parse_filter
from mllm_embed.errors import DataError


@pytest.mark.parametrize(
    ("given", "conditions"),
    [
        ({}, []),
        ({"a": 1}, [("a", "in", (1,))]),
        ({"a": None}, [("a", "in", (None,))]),
        ({"a": ["x", None, "y"]}, [("a", "in", ("x", None, "y"))]),
        ({"a": {">=": 1, "<": 2.5}}, [("a", ">=", (1,)), ("a", "<", (2.5,))]),
        ({"a": {"!=": "XL"}, "b": {"=": [True, False]}}, [("a", "not in", ("XL",)), ("b", "in", (True, False))]),
        ({"": "x", 'a."b"': "it's"}, [("", "in", ("x",)), ('a."b"', "in", ("it's",))]),
        ({"a": {">": "2026-01-31"}}, [("a", ">", ("2026-01-31",))]),
    ],
)
def test_the_forms(given: dict[str, Any], conditions: list[tuple[str, str, tuple[Any, ...]]]) -> None:
    for form in (given, json.dumps(given)):
        found = parse_filter(form)
        assert [(one.column, one.operator, one.values) for one in found.conditions] == conditions
        assert bool(found) == bool(conditions)


def test_numbers_of_numpy_are_plain_and_true_is_not_one() -> None:
    found = parse_filter({"a": [np.int64(3), np.float32(0.5)], "b": np.bool_(True)})
    assert [list(map(type, one.values)) for one in found.conditions] == [[int, float], [bool]]
    assert parse_filter({"a": True}).key != parse_filter({"a": 1}).key
    assert parse_filter({"a": -0.0}).key == parse_filter({"a": 0.0}).key


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("{", "the filter is no JSON such as .*price"),
        ("[" * 100_000, "the filter is no JSON"),
        ('{"a": NaN}', "the filter is no JSON .*NaN is no number"),
        ('{"a": 1, "a": 2}', 'the filter names "a" twice: give all conditions of a column in one object'),
        ("[1]", "a filter is an object such as .*, not a list"),
        ({1: 2}, "names columns by words, not by the int 1"),
        ({"a": {}}, 'the filter of "a" is empty'),
        ({"a": []}, 'the filter of "a" names no value'),
        ({"a": {"~": 1}}, 'has the str "~" for an operator: give one of =, !=, <, <=, >, >='),
        ({"a": {"in": [1]}}, 'has the str "in" for an operator'),
        ({"a": [1, "x"]}, 'the filter of "a" is compared with numbers and words at once'),
        ({"a": [1, True]}, "numbers and true and false at once"),
        ({"a": {"<": [1, 2]}}, 'the filter of "a" is to be < a list: give one number, or a date in quotes'),
        ({"a": {"<": None}}, "is to be < the NoneType null"),
        ({"a": {"<": True}}, "is to be < the bool true"),
        ({"a": [[1]]}, r"names the list \[1\], which is no text, number or truth value"),
        ({"a": {"=": {"b": 1}}}, "names the dict .*, which is no text"),
        ({"a": float("inf")}, "which is no finite number"),
        ({"a": float("nan")}, "which is no finite number"),
        ({"a": 2**53 + 1}, "has more digits than numbers are compared by .2.53.: write it in quotes"),
        ({"a": " "}, "which is no value: null asks for rows without one"),
        ({"a": list(range(10_001))}, 'the filter of "a" names 10,001 values: give 10,000 or fewer'),
        ({"a" * 999: {}}, r'the filter of "a{57}\.\.\." is empty'),
        ({"a": "\ud83d"}, "which holds half a character"),
    ],
)
def test_what_is_refused(given: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_filter(given)


def test_an_unknown_operator_of_a_condition_is_refused() -> None:
    with pytest.raises(DataError, match="compared by '==': give one of in, not in, <, <=, >, >="):
        Condition("a", "==", (1,))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prise": 1}, "there is no column \"prise\" to filter by; did you mean 'price'. .there are: price, size, new"),
        (
            {"price": "40"},
            'the column "price" holds numbers, and the filter compares it with the str "40": give numbers',
        ),
        ({"price": {"<": "40"}}, 'holds numbers, and the filter compares it with the str "40"'),
        ({"price": True}, "holds numbers, and the filter compares it with the bool true"),
        ({"size": 40}, "holds words, and the filter compares it with the int 40: give words"),
    ],
)
def test_columns_that_do_not_fit(given: dict[str, Any], words: str) -> None:
    kinds = {"price": "number", "size": "text", "new": None}
    check_columns(parse_filter({"price": [1, None], "size": None, "new": "any"}), kinds)
    check_columns(Filter(), {})
    with pytest.raises(DataError, match=words):
        check_columns(parse_filter(given), kinds)
    with pytest.raises(
        DataError, match=r"nothing is kept beside the vectors; keep some with `mllm-embed encode --keep"
    ):
        check_columns(parse_filter(given), {})
    with pytest.raises(DataError, match=r"there are: c0, c1, .*, c19, \.\.\.\)$"):
        check_columns(parse_filter({"other": 1}), {f"c{number}": "text" for number in range(50)})
