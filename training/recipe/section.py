"""What every section of a recipe is: unknown keys and other types are refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

MOST_STEPS = 10**9  # of a stage: no run takes as many, a slip of the finger does


class Section(BaseModel):
    """A section of a recipe: unknown keys and other types are refused, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True, str_min_length=1)
