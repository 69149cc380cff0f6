"""One stage of a re-ranker's recipe: which rows bring which candidates, and how these are to be judged."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ...data.roles import RoleName
from ...data.source import DataSource
from ..row_stage import RowStage, Searched
from ..sides import Sides
from .term import RankingTerm


class RerankStage(RowStage):
    """A stage in which a model learns to judge a query with each of a row's candidates."""

    query: RoleName = Field(default="composed", description="the role that asks")
    positive: RoleName = Field(default="target_image", description="the role that is to be judged right")
    negatives: Annotated[list[RoleName], Field(min_length=1, strict=False)] = Field(
        default=["hard_negative"],
        description="roles that are to be judged wrong: hard_negative, what `mllm-embed-train mine` found with the "
        "embedder whose answers are to be re-ranked; query_image, the reference itself",
    )
    candidates: int = Field(
        default=8, gt=1, le=1000, description="of a row at most, its positive among them; other negatives, other epochs"
    )
    terms: list[RankingTerm] = Field(min_length=1, strict=False, description="the loss: a weighted sum of terms")

    @model_validator(mode="after")
    def _negatives_are_wrong(self) -> RerankStage:
        if {self.query, self.positive} & set(self.negatives) or "hard_negative" in (self.query, self.positive):
            raise ValueError("query, positive and negatives are different roles, and hard_negative is a negative")
        return self

    @model_validator(mode="after")
    def _keys_have_their_part(self) -> RerankStage:
        for part in ("temperature", "centroids"):
            if getattr(self.rates, part):
                raise ValueError(f"rates.{part} is given, and a re-ranker's loss has no {part}; leave it out")
        if any([self.document_task, *(source.document_task for source in self.data)]):
            raise ValueError("document_task is given, and a re-ranker's task is its query's; leave it out")
        return self

    @model_validator(mode="after")
    def _forms_differ(self) -> RerankStage:
        forms = [term.form for term in self.terms]
        if len(set(forms)) < len(forms):
            raise ValueError(f"each form stands once in terms, not {', '.join(forms)}")
        return self

    @property
    def roles(self) -> list[RoleName]:
        """Every role that is needed, once, in order."""
        return list(dict.fromkeys([self.query, self.positive, *self.negatives]))

    @property
    def sides(self) -> Sides:
        """What of its rows is asked as a query, and its task."""
        return Sides(frozenset([self.query]), self.query_task, self.document_task)

    @property
    def searched(self) -> Searched:
        """What hard negatives that are mined before it are for, without its task, which is the re-ranker's."""
        return Searched(self.query, self.positive)

    @property
    def data_to_mine(self) -> tuple[DataSource, ...]:
        """Its sources without their tasks, which are the re-ranker's: the embedder that mines may know none."""
        return tuple(source.model_copy(update={"query_task": None}) for source in self.data)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each form in the loss."""
        return {term.form: term.weight for term in self.terms}
