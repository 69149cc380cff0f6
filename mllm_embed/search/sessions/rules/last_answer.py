"""The first answer of the turn before is the next reference."""

from __future__ import annotations

from collections.abc import Sequence

from ....types import Query
from ..turn import Parts, Rule, Turn, going_on


def last_answer(turns: Sequence[Turn]) -> Parts:
    """q(a, m): what is said now, about what answered first in the turn before."""
    return [(1.0, Query(going_on(turns), turns[-1].instruction))]


RULE = Rule(
    last_answer,
    source="the turn before in a chain of single turns, with nobody choosing among its answers",
    reads_answers=True,
)
