"""The vectors of all turns, each about what answered the turn before, older ones weighing less."""

from __future__ import annotations

from collections.abc import Sequence

from ....types import Query
from ..turn import Parts, Rule, Turn, going_on


def mixed_answers(turns: Sequence[Turn], *, decay: float = 0.25) -> Parts:
    """sum of d^(t - i) q(a_i, m_i) over the turns i: each about what answered first in the turn before it."""
    # the default was chosen on the demo's scenes: on another draw of them than is reported
    last = len(turns) - 1
    return [(decay ** (last - at), Query(going_on(turns[: at + 1]), turn.instruction)) for at, turn in enumerate(turns)]


RULE = Rule(
    mixed_answers,
    source="late fusion of a chain of single turns; a decay of 0 is `last answer`",
    reads_answers=True,
)
