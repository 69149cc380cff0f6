"""The optimiser of a stage, and how long it works."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..optimizers import OptimizerName
from ..section import MOST_STEPS, Section

# A parameter of its own scale: where the temperature lies between its bounds, of which a run of a few hundred steps may
# have to cross the most. CLIP's (arXiv 2103.00020, section 2.5), which is trained at the rate of the whole model, has
# ten thousands of steps for that.
TEMPERATURE_RATE = 0.02
# Those of the paper's code (jingtaozhan/JPQ) are 5e-6 to 1e-4, the more the longer the codes.
CENTROID_RATE = 1e-4
Rate = Annotated[float, Field(gt=0, le=1000)]


class Rates(Section):
    """The learning rates of parts that do not learn at the stage's; all follow its schedule."""

    temperature: Rate | None = Field(
        default=None,
        description=f"of learn_temperature, a share of its way between the bounds; by default {TEMPERATURE_RATE}",
    )
    projector: Rate | None = Field(default=None, description="of the projector; by default learning_rate")
    vision: Rate | None = Field(default=None, description="of the vision tower's LoRA; by default learning_rate")
    centroids: Rate | None = Field(default=None, description=f"of the centroids of jpq; by default {CENTROID_RATE}")


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
        default="cosine",
        description="how the learning rate falls to 1/n of its peak, in the n steps from there to the last: cosine, "
        "linear, or constant_with_warmup, not at all",
    )
    warmup: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="share of the steps with a rising learning rate: of w steps the first has 1/w of it",
    )
    rates: Rates = Field(
        default=Rates(), description="rates of their own of the temperature, projector, vision tower, centroids"
    )
    optimizer: OptimizerName = Field(
        default="adamw",
        description="adamw, adamw_8bit, paged_adamw_32bit, paged_adamw_8bit, adafactor, lion_32bit or lion_8bit; what "
        "each takes of memory, plan says",
    )
    weight_decay: float = Field(default=0.0, ge=0, description="of the optimiser, on what is trained")
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="a longer gradient is shortened to this length; 0: none is"
    )
    save_steps: int = Field(
        default=200, gt=0, le=MOST_STEPS, description="steps between checkpoints, from which a stopped run goes on"
    )
