"""The section `judge` of a stage: what reads a query and a candidate together, and whose judgement is taught."""

from __future__ import annotations

from pydantic import Field, model_validator

from ...data.source import LocalPath
from ..section import Section


class JudgeSection(Section):
    """The re-ranker of a stage, which judges each row's positive and hard negatives once."""

    model: str | None = Field(
        default=None, description="folder or hub id of the re-ranker, or of its base; by default the recipe's model"
    )
    adapter: LocalPath | None = Field(default=None, description="adapter folder to put on it")
    temperature: float = Field(
        default=1.0, gt=0, description="its scores are divided by it: more makes its judgement of a list softer"
    )
    weight: float = Field(
        default=0.0,
        ge=0,
        description="how many times the cosine of the embedder that searches counts beside its score, as in a search "
        "with a re-ranker; `mllm-embed-eval methods --tune-on` finds what is best there",
    )
    search: LocalPath | None = Field(
        default=None, description="adapter of that embedder, on the recipe's model; by default the recipe's own"
    )

    @model_validator(mode="after")
    def _search_counts(self) -> JudgeSection:
        if self.search is not None and not self.weight:
            raise ValueError("search is the embedder whose cosine counts, and weight is 0; give one, or leave it out")
        return self
