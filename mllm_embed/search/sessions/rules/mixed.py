"""The vectors of all turns, older ones weighing less."""

from __future__ import annotations

from collections.abc import Sequence

from ....types import Query
from ..turn import Parts, Rule, Turn, pointed_at


def mixed(turns: Sequence[Turn], *, decay: float = 0.25) -> Parts:
    """sum of d^(t - i) q(r_i, m_i) over the turns i: each about the picture that was pointed at last by then."""
    # the default was chosen on the demo's scenes: on another draw of them than is reported
    last = len(turns) - 1
    return [
        (decay ** (last - at), Query(pointed_at(turns[: at + 1]), turn.instruction)) for at, turn in enumerate(turns)
    ]


RULE = Rule(
    mixed,
    source="late fusion of the turns; a decay of 0 is `last turn`",
)
