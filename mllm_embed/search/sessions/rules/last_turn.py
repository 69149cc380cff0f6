"""Forgetting: each turn by itself, on the picture that the user pointed at last."""

from __future__ import annotations

from collections.abc import Sequence

from ....types import Query
from ..turn import Parts, Rule, Turn, pointed_at


def last_turn(turns: Sequence[Turn]) -> Parts:
    """q(r, m): what is said now, about the picture that was pointed at last."""
    return [(1.0, Query(pointed_at(turns), turns[-1].instruction))]


RULE = Rule(
    last_turn,
    source="each turn as a composed query of its own; with the references that annotators chose, as CIRCLED publishes "
    "its turns (arXiv 2605.26734)",
)
