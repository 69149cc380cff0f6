"""The section `judge` of a stage: what reads a query and a candidate together, and whose judgement is taught."""

from __future__ import annotations

from pydantic import Field

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
