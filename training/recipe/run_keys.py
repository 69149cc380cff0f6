"""What every run has: a model, what is trained of it and how it computes, whatever its stages teach."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ..data.source import LocalPath
from .section import Section
from .trained.lora import Lora

CHECKPOINTS, DATA = "checkpoints", "data"  # folders of a run beside its stages' own


def _stage_name(name: str) -> str:
    # a stage's adapter lies in OUTPUT/NAME
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name in (CHECKPOINTS, DATA):
        raise ValueError("a stage's name is letters, digits, - and _, and not 'checkpoints' or 'data'")
    return name


StageName = Annotated[str, AfterValidator(_stage_name)]


class RunKeys(Section):
    """The keys of a recipe that say what is loaded and how it computes."""

    model: str = Field(description="folder or hub id of an image-text model")
    output: LocalPath = Field(description="folder of the run: adapters, checkpoints, log.jsonl, TensorBoard")
    stages: dict[StageName, Any] = Field(min_length=1, description="in order; each goes on from the one before")
    adapter: str | None = Field(
        default=None,
        description="adapter to go on from, a folder or hub id, whoever trained it: its form, layers and rank are its "
        "own, and a `lora` that says otherwise is refused; by default a new one, or model where that is an adapter",
    )
    lora: Lora = Lora()
    max_tokens: int | None = Field(
        default=None, gt=0, description="rows with a longer input are unreadable; by default the model's positions"
    )
    min_pixels: int | None = Field(
        default=None, gt=0, description="pictures with fewer are made larger, where the model takes any size"
    )
    max_pixels: int | None = Field(
        default=None,
        gt=0,
        description="pictures with more are made smaller, where the model takes more than one size; by default as its "
        "image processor, with which it is saved, has it",
    )
    jpeg_side: int | None = Field(
        default=None,
        ge=0,
        description="JPEG files are decoded at 1/2, 1/4 or 1/8 of their size while both sides keep so many pixels or "
        "more; 0: whole; by default as saved, or else whole",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="of weights, order and dropout")
    bf16: bool | Literal["auto"] = Field(
        default="auto", description="bfloat16 autocast; auto: where the processor has it"
    )
    quantization: Literal["nf4", "int8"] | None = Field(
        default=None, description="nf4 or int8: the frozen language model in 4 or 8 bits, as in QLoRA"
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        default="sdpa", description="attention kernel; eager trains faster on a CPU, where sdpa's backward pass is slow"
    )
    gradient_checkpointing: bool = Field(default=False, description="a third more time for much less memory")
    workers: int = Field(
        default=0, ge=0, le=1024, description="processes that decode pictures; 0: the training process"
    )

    def checkpoints_of(self, stage: str) -> Path:
        """Return the folder of a stage's checkpoints, and of what else the stage needs to go on after a stop."""
        return self.output / CHECKPOINTS / stage

    @model_validator(mode="after")
    def _rates_have_their_part(self) -> RunKeys:
        for name, stage in self.stages.items():
            if stage.rates.projector and not self.lora.projector:
                raise ValueError(f"stages.{name}.rates.projector is given, and lora.projector is false; leave it out")
            # of the tower, only the files of `adapter` or `model` tell: either may be an adapter (start.start_of)
        return self

    @field_validator("bf16", mode="before")
    @classmethod
    def _auto_or_switch(cls, value: Any) -> Any:
        if value != "auto" and not isinstance(value, bool):
            raise ValueError(f"must be auto, true or false, not {value!r}")
        return value
