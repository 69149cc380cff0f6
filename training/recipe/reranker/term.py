"""The terms of a re-ranking stage's loss: how the judgement of a row's candidates is made right."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..section import Section

Form = Literal["pointwise", "softmax", "listwise"]
PAIRED: frozenset[Form] = frozenset({"pointwise", "softmax"})
"""The forms that read a query with one candidate at a time; the other reads all of them in one prompt."""


class RankingTerm(Section):
    """One loss over a row's candidates: its positive, and what is wrong for it."""

    form: Form = Field(
        description="pointwise: yes for the positive, no for each other, as logits apart; softmax: the positive's yes "
        "over no among those of all candidates; listwise: the positive's number, of candidates in one prompt in an "
        "order drawn anew each time"
    )
    weight: float = Field(default=1.0, gt=0, description="share of this term in the loss")
