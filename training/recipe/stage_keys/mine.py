"""The section `mine` of a stage: hard negatives that the model itself finds, again and again while it trains."""

from __future__ import annotations

from pydantic import Field, model_validator

from ...data.roles import RoleName
from ..section import MOST_STEPS, Section

LATE = 16
"""Steps by which a checkpoint may be held back, and the next mining with it: rows of these are mined too."""


class Mine(Section):
    """Hard negatives by the model as it is, at the start of the stage and every few steps (ANCE, arXiv 2007.00808).

    They take the place of those of `mined`, whose clusters stay. Keys and defaults are those of `mllm-embed-train
    mine`.
    """

    every: int = Field(gt=0, le=MOST_STEPS, description="steps after which the model mines anew; the training waits")
    count: int = Field(default=5, gt=0, le=10**6, description="hard negatives a row, at most")
    siblings: int = Field(
        default=0, ge=0, le=10**6,
        description="of these, so many are the answers to other instructions on the row's picture",
    )  # fmt: skip
    skip: int = Field(default=0, ge=0, le=10**6, description="pass over the nearest so many candidates")
    ceiling: float = Field(
        default=0.95,
        gt=0,
        allow_inf_nan=True,
        description="leave out what is nearer than this share of the positive's cosine; .inf leaves out nothing",
    )
    at_most: float | None = Field(default=None, gt=-1, le=1, description="and what is nearer than this cosine")
    depth: int = Field(default=200, gt=0, le=10**6, description="candidates looked at for a row")
    candidates: int | None = Field(
        default=None,
        gt=0,
        description="encode so many candidates each time, drawn anew, beside the rows' own; by default all positives "
        "of the stage",
    )
    query: RoleName | None = Field(
        default=None, description="the role that asks; by default that of the first term with hard_negative"
    )
    positive: RoleName | None = Field(default=None, description="the role that is found; by default likewise")
    also: list[RoleName] = Field(
        default=[], strict=False, description="roles of further candidates: [query_image], say"
    )

    @model_validator(mode="after")
    def _looks_far_enough(self) -> Mine:
        if self.skip + self.count > self.depth:
            raise ValueError(f"depth {self.depth} must be at least skip and count together, {self.skip + self.count}")
        if self.siblings > self.count:
            raise ValueError(f"siblings {self.siblings} are a part of count, {self.count}")
        return self
