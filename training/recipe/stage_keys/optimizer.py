"""The optimiser of a stage, and how long it works."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..section import MOST_STEPS, Section


class OptimizerKeys(Section):
    """The keys of a stage that say how its loss is made small."""

    epochs: float = Field(default=1, gt=0, le=10**6, description="passes over the rows")
    steps: int | None = Field(
        default=None, gt=0, le=MOST_STEPS, description="stop after so many steps instead of epochs"
    )
    more_steps: list[Annotated[int, Field(gt=0, le=MOST_STEPS)]] = Field(
        default=[],
        strict=False,
        description="train on after these, also where the stage was finished without: [500], and later [500, 200]; "
        "each is a part with a schedule of its own, warm-up and fall, from the weights and optimiser's state before it",
    )
    learning_rate: float = Field(default=2e-4, gt=0, le=1000, description="its peak, after the warm-up")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        default="cosine", description="how the learning rate falls: cosine, linear, or constant_with_warmup"
    )
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's, on what is trained")
    save_steps: int = Field(
        default=200, gt=0, le=MOST_STEPS, description="steps between checkpoints, from which a stopped run goes on"
    )
    max_cosine: float = Field(
        default=0.95, gt=0, description="collapse: stop when the vectors' mean cosine rises above it and stays there"
    )
