"""The sections of a recipe: each field documented here is a YAML key and can be set by `--override key=value`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ..data.source import LocalPath
from .lora import Lora
from .section import Prompts, Section
from .stage import Stage


class TeacherSection(Section):
    """The model whose vectors an index holds, and which terms with `taught: true` distil."""

    model: str = Field(description="folder or hub id; an adapter folder will do")
    adapter: LocalPath | None = Field(default=None, description="adapter folder to put on it")
    preset: str | None = Field(default=None, description="as of the recipe")
    prompts: Prompts | None = Field(default=None, description="as of the recipe")


CHECKPOINTS, DATA = "checkpoints", "data"  # folders of a run beside its stages' own


def _stage_name(name: str) -> str:
    # a stage's adapter lies in OUTPUT/NAME
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name in (CHECKPOINTS, DATA):
        raise ValueError("a stage's name is letters, digits, - and _, and not 'checkpoints' or 'data'")
    return name


StageName = Annotated[str, AfterValidator(_stage_name)]


class Recipe(Section):
    """A whole run: a model, what is trained of it, and the stages one after the other."""

    model: str = Field(description="folder or hub id of an image-text model")
    output: LocalPath = Field(description="folder of the run: adapters, checkpoints, log.jsonl, TensorBoard")
    stages: dict[StageName, Stage] = Field(min_length=1, description="in order; each goes on from the one before")
    adapter: str | None = Field(
        default=None,
        description="adapter to go on from, a folder or hub id, whoever trained it: its form, layers and rank are its "
        "own, and a `lora` that says otherwise is refused; by default a new one, or model where that is an adapter",
    )
    lora: Lora = Lora()
    teacher: TeacherSection | None = Field(
        default=None, description="a larger embedder, to make a small query encoder for its index; see below"
    )
    preset: str | None = Field(
        default=None,
        description="name of a published embedder's preset, or a YAML or JSON file with one; by default that of the "
        "model's hub id, where there is one",
    )
    prompts: Prompts | None = Field(
        default=None,
        description="name of a prompt set, a YAML or JSON file with one, or its keys here: {image: ..., composed: ..., "
        "text: ...}, as `mllm-embed prompt` prints them; by default what the model was saved with, or those of its "
        "preset",
    )
    pooling: Literal["last", "mean"] | None = Field(
        default=None, description="last token, or mean over the picture's and user's tokens; by default as saved"
    )
    bidirectional: bool | None = Field(
        default=None, description="attention that looks ahead too; by default as saved, or else not"
    )
    positions: Literal["model", "sequential"] | None = Field(
        default=None, description="tokens numbered as by the model, or one after the other; by default as saved"
    )
    max_tokens: int | None = Field(
        default=None, gt=0, description="rows with a longer input are unreadable; by default the model's positions"
    )
    truncate: bool | None = Field(
        default=None, description="cut the words of a longer input instead; by default as saved, or else not"
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
    deepspeed: str | None = Field(
        default=None, description="zero2, zero3, zero2-offload, zero3-offload, or a JSON file: DeepSpeed's config"
    )
    trained_on: bool = Field(
        default=True,
        description="leave with each adapter what it was trained on, as numbers of 8 bytes, by which leaks are told; "
        "all rows and pictures are read once more before the first stage, streamed ones excepted",
    )
    workers: int = Field(
        default=0, ge=0, le=1024, description="processes that decode pictures; 0: the training process"
    )

    @model_validator(mode="after")
    def _teacher_teaches_all(self) -> Recipe:
        taught = [term.taught for stage in self.stages.values() for term in stage.terms]
        if any(taught) and self.teacher is None:
            raise ValueError("a term with taught: true needs a teacher")
        if self.teacher and not all(taught):
            raise ValueError("with a teacher every term is taught: true, or vectors would leave its space")
        return self

    @model_validator(mode="after")
    def _teacher_needs_no_info_nce(self) -> Recipe:
        for stage in self.stages.values() if self.teacher else ():
            if stage.learn_temperature or stage.mask_margin is not None or stage.hardness or stage.guide:
                raise ValueError("with a teacher, stages take no learn_temperature, mask_margin, hardness or guide")
        return self

    @model_validator(mode="after")
    def _rates_have_their_part(self) -> Recipe:
        for name, stage in self.stages.items():
            if stage.rates.projector and not self.lora.projector:
                raise ValueError(f"stages.{name}.rates.projector is given, and lora.projector is false; leave it out")
            # of the tower, only the files of `adapter` or `model` tell: either may be an adapter (start.start_of)
        return self

    @model_validator(mode="after")
    def _mining_leaves_no_engine(self) -> Recipe:
        for name, stage in self.stages.items():
            if stage.mine and self.deepspeed:
                raise ValueError(
                    f"stage '{name}': mine goes without deepspeed, whose engine cannot be left between two steps; take "
                    "`mllm-embed-train mine` before the stage, and mined"
                )
        return self

    def checkpoints_of(self, stage: str) -> Path:
        """Return the folder of a stage's checkpoints, and of what else the stage needs to go on after a stop."""
        return self.output / CHECKPOINTS / stage

    @field_validator("bf16", mode="before")
    @classmethod
    def _auto_or_switch(cls, value: Any) -> Any:
        if value != "auto" and not isinstance(value, bool):
            raise ValueError(f"must be auto, true or false, not {value!r}")
        return value
