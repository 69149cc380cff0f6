"""The section `evaluate` of a stage: a validation while it trains."""

from __future__ import annotations

from pydantic import Field

from ...data.source import LocalPath, Task
from ..section import MOST_STEPS, Section


class Evaluate(Section):
    """A validation while a stage trains; its best adapter becomes the stage's."""

    data: LocalPath = Field(description="a data folder with a benchmark.json, best one that no training data is from")
    every: int = Field(
        gt=0, le=MOST_STEPS, description="steps between validations; one comes before the first step, one at the end"
    )
    query_task: Task | None = Field(default=None, description="the task of its queries; by default the stage's")
    document_task: Task | None = Field(default=None, description="the task of its gallery; by default the stage's")
