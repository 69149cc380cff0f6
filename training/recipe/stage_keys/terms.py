"""The terms of a stage's loss: which roles are queries, positives and negatives, and what a step encodes for them."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from ...data.roles import RoleName
from ..section import Section


class RoleUse(NamedTuple):
    """A role as a term needs it: encoded by what is trained, or (`frozen`) by the model without its adapter."""

    role: RoleName
    frozen: bool = False


Roles = Annotated[
    list[RoleName],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Field(min_length=1, strict=False),
]


class Term(Section):
    """One InfoNCE: `query` must find its own `positive` among all positives and negatives of the batch."""

    query: Roles = Field(description="what asks: a role, or a list of them that share one softmax")
    positive: Roles = Field(description="what must be found: a role, or a list with one for each query")
    negatives: list[RoleName] = Field(
        default=[], strict=False, description="roles that join the candidates as hard negatives"
    )
    symmetric: bool = Field(default=False, description="also let each positive find its query, and take the mean")
    same_side: bool = Field(
        default=False, description="the other queries are negatives too; with symmetric this is NT-Xent"
    )
    frozen: bool = Field(
        default=False, description="encode positive and negatives without the adapter: an index of the base stays valid"
    )
    bank: bool = Field(
        default=False,
        description="candidates are those of all rows, encoded once before the stage: queries alone train",
    )
    taught: bool = Field(
        default=False,
        description="distil: the query learns the teacher's vector of it, and its cosines to the teacher's positives",
    )
    judged: bool = Field(
        default=False,
        description="distil: the query's cosines to its positive and the row's hard negatives learn how the stage's "
        "judge, a re-ranker, shares out that list",
    )
    weight: float = Field(default=1.0, gt=0, description="share of this term in the loss")

    @model_validator(mode="after")
    def _hard_negatives_are_negatives(self) -> Term:
        if "hard_negative" in (*self.query, *self.positive):
            raise ValueError("hard_negative can only be listed in negatives: a row may have none or several")
        return self

    @model_validator(mode="after")
    def _bank_asks_one_way(self) -> Term:
        if not self.uses_bank:
            return self
        several_ways = self.symmetric or self.same_side or self.frozen
        if several_ways or len(self.query) > 1:
            kind = "bank" if self.bank else "taught"
            raise ValueError(f"a term with {kind}: true has one query and takes no symmetric, same_side or frozen")
        return self

    @model_validator(mode="after")
    def _teacher_knows_composed_queries(self) -> Term:
        if self.taught and (self.query != ["composed"] or self.bank or self.negatives):
            raise ValueError("a term with taught: true has query: composed and all positives: no bank, no negatives")
        return self

    @model_validator(mode="after")
    def _judges_a_list(self) -> Term:
        if not self.judged:
            return self
        if self.uses_bank or self.symmetric or self.same_side or len(self.query) > 1:
            raise ValueError("a term with judged: true has one query and takes no bank, taught, symmetric or same_side")
        if self.negatives != ["hard_negative"]:
            raise ValueError("a term with judged: true has negatives: [hard_negative], the rest of each row's list")
        return self

    @model_validator(mode="after")
    def _positives_fit_queries(self) -> Term:
        if len(self.query) != len(self.positive):
            raise ValueError(f"{len(self.query)} query roles need as many positive ones, not {len(self.positive)}")
        itself = [role for role, answer in zip(self.query, self.positive, strict=True) if role == answer]
        if itself and not self.frozen:
            raise ValueError(f"{itself[0]} would only find its own vector; with frozen: true it finds the base's")
        return self

    @property
    def name(self) -> str:
        """The term's name in the log."""
        kinds = ("judged", "frozen", "bank", "taught")
        kind = next((f"-{name}" for name in kinds if getattr(self, name)), "")
        return f"{'+'.join(self.query)}-{'+'.join(self.positive)}{kind}"

    @property
    def roles(self) -> list[RoleName]:
        """Every role that the term names: queries, positives, hard negatives; one may stand twice."""
        return [*self.query, *self.positive, *self.negatives]

    @property
    def uses_bank(self) -> bool:
        """Whether the candidates are those of all rows, encoded once before the stage."""
        return self.bank or self.taught

    @property
    def queries(self) -> list[RoleUse]:
        """The queries: always encoded by what is trained."""
        return [RoleUse(role) for role in self.query]

    @property
    def positives(self) -> list[RoleUse]:
        """The positives, one for each query."""
        return [RoleUse(role, self.frozen) for role in self.positive]

    @property
    def hard_negatives(self) -> list[RoleUse]:
        """The roles that join the candidates as hard negatives."""
        return [RoleUse(role, self.frozen) for role in self.negatives]

    @property
    def fixed_negatives(self) -> list[RoleName]:
        """The roles that are wrong for their row by what they are, say its own reference picture."""
        return [role for role in self.negatives if role != "hard_negative"]

    @property
    def uses(self) -> list[RoleUse]:
        """All that a step encodes for the term; a bank's candidates lie there already."""
        return self.queries if self.uses_bank else [*self.queries, *self.positives, *self.hard_negatives]
