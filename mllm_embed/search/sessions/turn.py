"""A turn of a session, and what a rule for carrying the past is.

Here r is the picture that the user pointed at last, m what is said in a turn, a what answered first in one, and q(r, m)
the vector of a composed query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ...errors import DataError
from ...named_function import NamedFunction
from ...types import Images, Query

Parts: TypeAlias = Sequence[tuple[float, Query]]
"""Queries with their weights: what is searched with is the weighted sum of their vectors, of unit length again."""


@dataclass(frozen=True)
class Turn:
    """A turn.

    Attributes:
        instruction: what was said; None where a picture alone was given.
        reference: the picture, or pictures, that the user pointed at in this turn; None where at none.
        answer: the picture that answered first; None before there is an answer, or where it has no picture.
    """

    instruction: str | None
    reference: Images | None = None
    answer: Images | None = None


@dataclass(frozen=True)
class Rule(NamedFunction):
    """A rule of `sessions.rules`: each module there has one, called RULE.

    Attributes:
        run: `run(turns, **settings)`: from the turns so far, the last of which has no answer yet, to what is searched
            with; the defaults of its settings are those of its signature.
        source: who searches so.
        reads_answers: whether it goes on from what answered first, where the user pointed at nothing.
    """

    reads_answers: bool = False


def pointed_at(turns: Sequence[Turn]) -> Images | None:
    """Return the last picture that the user pointed at in some turns; None where at none."""
    return next((turn.reference for turn in reversed(turns) if turn.reference is not None), None)


def going_on(turns: Sequence[Turn]) -> Images | None:
    """Return what the last of some turns goes on from: what the user points at in it, or the first answer before it.

    Raises DataError where the turn before was not answered by a picture.
    """
    *before, own = turns
    if own.reference is not None or not before:
        return own.reference
    if before[-1].answer is None:
        raise DataError(
            f"turn {len(before)} was not answered by a picture, from which to go on: give an image, pick an answer, go "
            "back, or start a session by a rule that does without, as 'joined'"
        )
    return before[-1].answer
