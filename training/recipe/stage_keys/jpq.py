"""The section `jpq` of a stage: an index of product codes whose centroids and queries are tuned together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ..section import Section

if TYPE_CHECKING:
    from ..stage import Stage


class Jpq(Section):
    """Product codes of a stage's candidates, and how they are tuned with the queries (JPQ, arXiv 2108.00644)."""

    bytes: int = Field(
        gt=0, le=65_536, description="of a candidate's code: pieces of its vector, which they must divide evenly"
    )
    negatives: int = Field(
        default=200, gt=1, le=10**5, description="candidates that the codes find nearest at each step, ranked by them"
    )


def check_jpq(stage: Stage) -> None:
    """Raise ValueError for a stage with `jpq` that has other terms than its loss, or what changes that."""
    (term, *more) = stage.terms
    if more or not term.bank or term.query != ["composed"]:
        raise ValueError("jpq has one term, with query: composed and bank: true: its candidates are what is coded")
    beside = {
        "learn_temperature": stage.learn_temperature, "mask_margin": stage.mask_margin is not None,
        "hardness": stage.hardness, "matryoshka": stage.matryoshka, "guide": stage.guide, "evaluate": stage.evaluate,
    }  # fmt: skip
    other = next((key for key, value in beside.items() if value), None)
    if other:
        raise ValueError(f"jpq takes no {other}: its loss is of ranks by codes; leave one of them out")
