"""All that was said, as one instruction."""

from __future__ import annotations

from collections.abc import Sequence

from ....types import Query
from ..turn import Parts, Rule, Turn, pointed_at

_END = " .,;"


def joined(turns: Sequence[Turn]) -> Parts:
    """q(r, "m1, m2, ..."): all that was said so far, about the picture that was pointed at last."""
    said = [turn.instruction for turn in turns if turn.instruction is not None]
    # a full stop within a sentence would end it early; the last instruction stays as it was said
    words = ", ".join([*(text.strip().rstrip(_END) or text for text in said[:-1]), *said[-1:]])
    return [(1.0, Query(pointed_at(turns), words or None))]


RULE = Rule(joined, source="the dialogue as one text, in the place of a single turn's")
