"""The recipe's section `lora`: what is trained of a model."""

from __future__ import annotations

from pydantic import Field

from .section import Section


class Lora(Section):
    """The trainable part: LoRA on the language model, and the projector between it and the vision tower."""

    rank: int = Field(default=16, gt=0, le=16_384, description="width of the two small matrices on each linear layer")
    alpha: float = Field(default=32, gt=0, description="their product is scaled by alpha / rank")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="share of their inputs dropped in training")
    projector: bool = Field(default=True, description="train the projector too; the vision tower stays frozen")
