"""The sections of a recipe: each field documented here is a YAML key and can be set by `--override key=value`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from ..data.roles import ASKING, PICTURE_ROLES, ROLES, RoleName
from ..data.source import DataSource, LocalPath, Task
from .sides import Sides
from .terms import RoleUse, Section, Term


def _sources(value: Any) -> Any:
    """Return a tuple of sources: one may stand without a list, and a bare path for a data folder."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    return tuple({"path": entry} if isinstance(entry, (str, Path)) else entry for entry in listed)


Sources = Annotated[tuple[DataSource, ...], BeforeValidator(_sources), Field(min_length=1)]
MOST_STEPS = 10**9  # of a stage: no run takes as many, a slip of the finger does


class Lora(Section):
    """The trainable part: LoRA on the language model, and the projector between it and the vision tower."""

    rank: int = Field(default=16, gt=0, le=16_384, description="width of the two small matrices on each linear layer")
    alpha: float = Field(default=32, gt=0, description="their product is scaled by alpha / rank")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="share of their inputs dropped in training")
    projector: bool = Field(default=True, description="train the projector too; the vision tower stays frozen")


class Evaluate(Section):
    """A validation while a stage trains; its best adapter becomes the stage's."""

    data: LocalPath = Field(description="a data folder with a benchmark.json, best one that no training data is from")
    every: int = Field(
        gt=0, le=MOST_STEPS, description="steps between validations; one comes before the first step, one at the end"
    )
    query_task: Task | None = Field(default=None, description="the task of its queries; by default the stage's")
    document_task: Task | None = Field(default=None, description="the task of its gallery; by default the stage's")


class TeacherSection(Section):
    """The model whose vectors an index holds, and which terms with `taught: true` distil."""

    model: str = Field(description="folder or hub id; an adapter folder will do")
    adapter: LocalPath | None = Field(default=None, description="adapter folder to put on it")
    preset: str | None = Field(default=None, description="as of the recipe")
    prompts: str | None = Field(default=None, description="as of the recipe")


class Stage(Section):
    """One stage of a run: its rows, its loss, the order and size of its batches, its optimiser."""

    data: Sources = Field(
        description="a data folder, or a list of sources {path, format, ...}, relative to where you start"
    )
    rows: Literal["pairs", "triplets", "texts"] = Field(
        description="which of the folder's files to read: pairs, triplets or texts"
    )
    terms: list[Term] = Field(min_length=1, strict=False, description="the loss: a weighted sum of InfoNCE terms")
    query_task: Task | None = Field(
        default=None,
        description="the task of what asks, for a model whose prompts have a place for one: Find a fashion image ...; "
        "rows' own and their source's go before it; by default that of the prompts",
    )
    document_task: Task | None = Field(default=None, description="the task of what is found, likewise")
    temperature: float = Field(default=0.05, gt=0, description="cosines are divided by it in the loss")
    learn_temperature: (
        Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2, strict=False)] | None
    ) = Field(
        default=None, description="learn it, from `temperature` on, within two bounds: [0.01, 0.1], say; default fixed"
    )
    mask_margin: float | None = Field(
        default=None, ge=0, description="leave out others' answers that score higher than a row's own by more than this"
    )
    hardness: float = Field(
        default=0.0, ge=0, le=1000, description="each negative counts exp(hardness x cosine) times: LLaVE, with 9"
    )
    mined: LocalPath | None = Field(
        default=None, description="what `mllm-embed-train mine` wrote: hard negatives, clusters"
    )
    hard_negatives: int | None = Field(
        default=None,
        gt=0,
        le=10**6,
        description="so many of the hard negatives that a row has, the first; by default all",
    )
    matryoshka: list[Annotated[int, Field(gt=0)]] = Field(
        default=[],
        strict=False,
        description="first dimensions that must do alone too, say [64, 128]: vectors can be cut to them",
    )
    batch_size: int = Field(
        default=64,
        gt=1,
        le=10**7,
        description="rows a step, over all processes; each row's positive is a negative of the others",
    )
    chunk_tokens: int | Literal["auto"] = Field(
        default="auto", description="tokens alive at once; a larger batch is cut and computed twice (gradient caching)"
    )
    per_image: int = Field(
        default=1, gt=0, description="rows with one picture or source text that share a batch, each other's negatives"
    )
    per_cluster: int = Field(default=1, gt=0, description="rows of one cluster of the `mined` file that share a batch")
    per_source: int = Field(
        default=1, gt=0, description="rows of one source that share a batch: 1 mixes, batch_size keeps sources apart"
    )
    max_unreadable: float = Field(
        default=0.01, ge=0, lt=1, description="share of unreadable rows that others replace; more of them end the run"
    )
    epochs: float = Field(default=1, gt=0, le=10**6, description="passes over the rows")
    steps: int | None = Field(
        default=None, gt=0, le=MOST_STEPS, description="stop after so many steps instead of epochs"
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
    evaluate: Evaluate | None = Field(
        default=None, description="validate while training, and keep the adapter with the best recall@1; see below"
    )
    max_cosine: float = Field(
        default=0.95, gt=0, description="collapse: stop when the vectors' mean cosine rises above it and stays there"
    )

    @model_validator(mode="after")
    def _roles_fit_rows(self) -> Stage:
        for role in self.roles:
            if role not in ROLES[self.rows]:
                raise ValueError(
                    f"role '{role}' does not exist in rows: {self.rows}, which offer {', '.join(ROLES[self.rows])}"
                )
        return self

    @model_validator(mode="after")
    def _tasks_have_their_side(self) -> Stage:
        asks = self.sides.queries.union(ASKING).intersection(self.encoded)
        for task, side in (("query_task", asks), ("document_task", set(self.encoded) - asks)):
            given = any(getattr(part, task) for part in (self, *self.data))
            if given and not side:
                what = "only asks" if task == "query_task" else "is only found"
                raise ValueError(f"{task} is given, and no role of the terms {what}; leave it out")
        return self

    @model_validator(mode="after")
    def _mined_fits_sources(self) -> Stage:
        if self.mined and (len(self.data) > 1 or self.data[0].format != "folder"):
            raise ValueError("mined goes with one data folder, for which it was made")
        if self.per_cluster > 1 and not self.mined:
            raise ValueError("per_cluster needs a mined file with clusters: mllm-embed-train mine --clusters")
        return self

    @model_validator(mode="after")
    def _streams_keep_their_order(self) -> Stage:
        near = self.per_image > 1 or self.per_cluster > 1 or self.per_source > 1
        if self.streaming and (near or any(term.uses_bank for term in self.terms)):
            raise ValueError(
                "streamed sources come in their own order: no per_image, per_cluster, per_source, bank, taught"
            )
        return self

    @model_validator(mode="after")
    def _dimensions_increase(self) -> Stage:
        if self.matryoshka != sorted(set(self.matryoshka)):
            raise ValueError(f"matryoshka must list increasing dimensions, not {self.matryoshka}")
        return self

    @model_validator(mode="after")
    def _temperature_lies_within(self) -> Stage:
        if self.learn_temperature:
            low, high = self.learn_temperature
            if not low < self.temperature < high:
                raise ValueError(
                    f"temperature {self.temperature} must lie between learn_temperature's {low} and {high}"
                )
        return self

    @field_validator("chunk_tokens", mode="before")
    @classmethod
    def _auto_or_tokens(cls, value: Any) -> Any:
        if value != "auto" and (type(value) is not int or not 1 <= value <= MOST_STEPS):
            raise ValueError(f"must be auto or a number of tokens from 1 on, not {value!r}")
        return value

    @model_validator(mode="after")
    def _neighbours_fill_batches(self) -> Stage:
        for name in ("per_image", "per_cluster", "per_source"):
            if self.batch_size % getattr(self, name):
                raise ValueError(f"{name} {getattr(self, name)} must divide batch_size {self.batch_size}")
        return self

    @property
    def sides(self) -> Sides:
        """What of its rows is asked as a query, and the tasks of both sides."""
        asks = {role for term in self.terms for role in term.query}
        found = {role for term in self.terms for role in (*term.positive, *term.negatives)}
        return Sides(frozenset(asks - found), self.query_task, self.document_task)

    @property
    def tasks(self) -> tuple[str | None, str | None]:
        """The tasks of queries and gallery in its validation."""
        own = self.evaluate
        asks, found = (own.query_task, own.document_task) if own else (None, None)
        return asks or self.query_task, found or self.document_task

    @property
    def streaming(self) -> bool:
        """Whether rows come nearly in the order of their shards."""
        return any(source.streaming for source in self.data)

    @property
    def where(self) -> str:
        """The paths of its sources, for a message."""
        return ", ".join(str(source.path) for source in self.data)

    @property
    def uses(self) -> list[RoleUse]:
        """Every role that a step encodes for some term, live or frozen, once, in order."""
        return list(dict.fromkeys(use for term in self.terms for use in term.uses))

    @property
    def encoded(self) -> list[RoleName]:
        """Every role that a step encodes, once, in order."""
        return list(dict.fromkeys(use.role for use in self.uses))

    @property
    def keyed(self) -> list[RoleName]:
        """The roles whose inputs are looked up in a bank, as queries or as candidates."""
        banked = (term for term in self.terms if term.uses_bank)
        return list(dict.fromkeys(role for term in banked for role in (*term.query, *term.positive)))

    @property
    def roles(self) -> list[RoleName]:
        """Every role that some term needs, once, in order."""
        return list(dict.fromkeys(role for term in self.terms for role in term.roles))

    @property
    def pictures(self) -> bool:
        """Whether some term needs pictures."""
        return not set(PICTURE_ROLES).isdisjoint(self.roles)


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
    lora: Lora = Lora()
    teacher: TeacherSection | None = Field(
        default=None, description="a larger embedder, to make a small query encoder for its index; see below"
    )
    preset: str | None = Field(
        default=None,
        description="name of a published embedder's preset, or a YAML or JSON file with one; by default that of the "
        "model's hub id, where there is one",
    )
    prompts: str | None = Field(
        default=None,
        description="name of a prompt set, or a YAML or JSON file with one; by default what the model was saved with, "
        "or those of its preset",
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
            if stage.learn_temperature or stage.mask_margin is not None or stage.hardness:
                raise ValueError("with a teacher, stages take no learn_temperature, mask_margin or hardness")
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
