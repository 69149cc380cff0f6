"""The loss of a stage: its terms, and how cosines become their loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...data.roles import PICTURE_ROLES, RoleName
from ..section import Section
from .terms import RoleUse, Term


class LossKeys(Section):
    """The keys of a stage that say what its loss is."""

    terms: list[Term] = Field(min_length=1, strict=False, description="the loss: a weighted sum of InfoNCE terms")
    temperature: float = Field(default=0.05, gt=0, description="cosines are divided by it in the loss")
    learn_temperature: (
        Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2, strict=False)] | None
    ) = Field(
        default=None, description="learn it, from `temperature` on, within two bounds: [0.01, 0.1], say; default fixed"
    )
    mask_margin: float | None = Field(
        default=None, ge=0, description="leave out others' answers that score higher than a row's own by more than this"
    )
    known_answers: Literal["stage", "batch"] = Field(
        default="stage",
        description="what is right for a query in any row of the stage is its negative nowhere; batch: as far as the "
        "rows of one batch tell, which spares a look at all rows before the first step",
    )
    near_twins: bool | None = Field(
        default=None,
        description="take pictures for one that show the same, saved again as JPEG, say: reads every picture once "
        "before the first step; by default where a bank reads them anyway. Equal files are one in any case",
    )
    hardness: float = Field(
        default=0.0, ge=0, le=1000, description="each negative counts exp(hardness x cosine) times: LLaVE, with 9"
    )
    max_cosine: float = Field(
        default=0.95, gt=0, description="collapse: stop when the vectors' mean cosine rises above it and stays there"
    )
    matryoshka: list[Annotated[int, Field(gt=0)]] = Field(
        default=[],
        strict=False,
        description="first dimensions that must do alone too, say [64, 128]: vectors can be cut to them",
    )

    @model_validator(mode="after")
    def _dimensions_increase(self) -> LossKeys:
        if self.matryoshka != sorted(set(self.matryoshka)):
            raise ValueError(f"matryoshka must list increasing dimensions, not {self.matryoshka}")
        return self

    @model_validator(mode="after")
    def _twins_have_an_effect(self) -> LossKeys:
        if self.near_twins and not self.looks_at_all_rows:
            raise ValueError("near_twins needs known_answers: stage, by which twins are known; leave one of them out")
        return self

    @model_validator(mode="after")
    def _temperature_lies_within(self) -> LossKeys:
        if self.learn_temperature:
            low, high = self.learn_temperature
            if not low < self.temperature < high:
                raise ValueError(
                    f"temperature {self.temperature} must lie between learn_temperature's {low} and {high}"
                )
        return self

    @property
    def uses(self) -> list[RoleUse]:
        """Every role that a step encodes for some term, live or frozen, once, in order."""
        return list(dict.fromkeys(use for term in self.terms for use in term.uses))

    @property
    def encoded(self) -> list[RoleName]:
        """Every role that a step encodes, once, in order."""
        return list(dict.fromkeys(use.role for use in self.uses))

    @property
    def keyed(self) -> list[RoleName]:
        """The roles whose inputs are looked up in a bank, as queries or as candidates."""
        banked = (term for term in self.terms if term.uses_bank)
        return list(dict.fromkeys(r for term in banked for r in (*term.query, *term.positive, *term.fixed_negatives)))

    @property
    def looks_at_pixels(self) -> bool:
        """Whether pictures that show the same are looked for."""
        return any(term.bank for term in self.terms) if self.near_twins is None else self.near_twins

    @property
    def looks_at_all_rows(self) -> bool:
        """Whether what is right is taken from all rows: a bank holds the answers of all, and needs it."""
        return self.known_answers == "stage" or any(term.uses_bank for term in self.terms)

    @property
    def roles(self) -> list[RoleName]:
        """Every role that some term needs, once, in order."""
        return list(dict.fromkeys(role for term in self.terms for role in term.roles))

    @property
    def pictures(self) -> bool:
        """Whether some term needs pictures."""
        return not set(PICTURE_ROLES).isdisjoint(self.roles)
