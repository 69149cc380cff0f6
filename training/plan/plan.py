"""The plan of a run: what it will take, before anything is loaded or fetched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from glob import glob
from typing import TYPE_CHECKING, Any

from mllm_embed.errors import ConfigError
from mllm_embed.model.quantization import QUANTIZATIONS

from ..recipe.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    import torch

    from mllm_embed.encode.model_source import ModelSource
    from mllm_embed.model.embedding_model import EmbeddingModel

    from ..batch.stage_data import StageRows
    from ..recipe.config import Recipe
    from ..recipe.reranker.recipe import RerankRecipe
    from ..recipe.row_stage import RowStage
    from ..recipe.run_keys import RunKeys
    from .guide import GuidePlan
    from .inputs import MicroBatch
    from .memory import Setting, StepPeak
    from .model import Counts
    from .planned import PlannedRecipe

GIB = 1 << 30
WEIGHT_BYTES = 8  # of a trained parameter: weight and gradient, float32 each; what the optimiser keeps comes on top


@dataclass(frozen=True)
class StagePlan:
    """The plan of one stage.

    Args:
        inputs: the micro-batches of its largest step.
        step: what that step takes above the weights.
        steps: how many it runs; None where that is not known.
        batch_size: rows a step.
        optimizer: its name in the recipe.
        moments: bytes that it keeps.
        on_disk: whether its data is there, so that inputs are as large as its own.
        guide: what its guide takes, None without one.
        notes: what else is to be known of it, a line each.
    """

    inputs: list[MicroBatch]
    step: StepPeak
    steps: int | None
    batch_size: int
    optimizer: str
    moments: int
    on_disk: bool
    guide: GuidePlan | None = None
    notes: tuple[str, ...] = ()

    @property
    def peak(self) -> int:
        """Bytes at the worst moment, above the weights and gradients."""
        return self.moments + self.step.peak


@dataclass(frozen=True)
class TrainingPlan:
    """The plan of a whole recipe; all memory in bytes.

    Args:
        source: where the model's config was found.
        counts: numbers of parameters.
        precision: in which the base is stored: a dtype or a quantization.
        base: what its weights take.
        stages: by name.
        reserve: what is left for the libraries.
        available: the whole memory.
    """

    source: str
    counts: Counts
    precision: str
    base: int
    stages: dict[str, StagePlan]
    reserve: int
    available: int

    @property
    def trained(self) -> int:
        """Weights and gradients of what is trained, float32 each."""
        return WEIGHT_BYTES * self.counts.trainable

    @property
    def total(self) -> int:
        """The bytes that the run takes in its worst stage, or while a guide encodes before one."""
        return self.base + max(self._training, self._guiding) + self.reserve

    @property
    def _training(self) -> int:
        return self.trained + max(stage.peak for stage in self.stages.values())

    @property
    def _guiding(self) -> int:
        # before the first step there are neither gradients nor moments
        return self.trained // 2 + max(
            (stage.guide.weights for stage in self.stages.values() if stage.guide), default=0
        )

    @property
    def guided_most(self) -> bool:
        """Whether a guide's weights are what takes most."""
        return self._guiding > self._training


def make_plan(
    recipe: Recipe | RerankRecipe, memory: float | None = None, picture: tuple[int, int] | None = None
) -> TrainingPlan:
    """Plan `recipe` for a GPU of `memory` GiB; by default for the GPU here, or without one for this CPU and its RAM.

    `picture` is the width and height of the pictures, by default what the data has. Raises ModelError for a model of
    unknown shape, DataError for data that is there and broken, ConfigError for what training would refuse.
    """
    import torch

    from ..distributed.chunking import RESERVE, total_memory
    from ..recipe.checks import check_rates
    from ..recipe.config import Recipe
    from ..recipe.optimizers import check_optimizer
    from .memory import Setting
    from .model import stored_bytes

    place = torch.device("cuda" if memory is not None or torch.cuda.is_available() else "cpu")
    for name, stage in recipe.stages.items():
        check_optimizer(name, stage.optimizer, place.type, recipe.deepspeed if isinstance(recipe, Recipe) else None)
    planned = _planned(recipe)
    bf16 = _bf16(recipe, place)
    weights = _dtype_of_weights(planned.source, planned.config, bf16, place)
    autocast = torch.bfloat16 if bf16 else None
    setting = Setting(place.type, autocast, recipe.attention, recipe.gradient_checkpointing, planned.asked)
    model, counts = planned.build(weights)
    check_rates(recipe, model)
    base = stored_bytes(model, recipe.quantization) + planned.head_bytes(model, weights)
    available = round(memory * GIB) if memory is not None else total_memory(place)
    room = available - base - WEIGHT_BYTES * counts.trainable
    stages = {name: _plan_stage(planned, name, model, setting, picture, room) for name in recipe.stages}
    precision = recipe.quantization or str(weights).removeprefix("torch.")
    return TrainingPlan(planned.found_in, counts, precision, base, stages, RESERVE[place.type], available)


def _planned(recipe: Recipe | RerankRecipe) -> PlannedRecipe:
    """Return a recipe as its plan sees it."""
    from ..recipe.reranker.recipe import RerankRecipe
    from .embedder import PlannedEmbedder
    from .reranker import PlannedReranker

    return PlannedReranker.of(recipe) if isinstance(recipe, RerankRecipe) else PlannedEmbedder.of(recipe)


def _bf16(recipe: RunKeys, place: torch.device) -> bool:
    """Return whether training at a place computes in bfloat16."""
    from mllm_embed.model.devices import bfloat16_pays

    return (place.type == "cuda" or bfloat16_pays(place)) if recipe.bf16 == "auto" else recipe.bf16


def _dtype_of_weights(source: ModelSource, config: Any, bf16: bool, place: torch.device) -> torch.dtype:
    """Return the dtype in which training loads the base."""
    import torch

    wanted = source.dtype("auto" if bf16 else "float32", place)
    return wanted if isinstance(wanted, torch.dtype) else config.dtype or torch.float32


def _plan_stage(
    planned: PlannedRecipe,
    name: str,
    model: EmbeddingModel,
    setting: Setting,
    picture: tuple[int, int] | None,
    room: int,
) -> StagePlan:
    """Plan a stage of a recipe, with `room` bytes for its moments and a step.

    Raises ConfigError for a batch larger than its data.
    """
    from ..recipe.checks import check_batch
    from ..recipe.optimizers import state_bytes
    from .memory import step_peak

    stage = planned.recipe.stages[name]
    # None where its data is not on disk (yet)
    there = all(source.path.exists() or glob(str(source.path)) for source in stage.data)
    rows = planned.open(name) if there else None
    if rows is not None:
        check_batch(name, stage, len(rows))
    inputs = planned.micro_batches(name, rows, picture)
    chunk_tokens = None if stage.chunk_tokens == "auto" else stage.chunk_tokens
    moments = state_bytes(stage.optimizer, [p.shape for p in model.parameters() if p.requires_grad])
    step = step_peak(model, inputs, setting, chunk_tokens, room - moments)
    steps = _steps(stage, rows)
    guide = planned.guide(name, rows, steps, setting)
    return StagePlan(inputs, step, steps, stage.batch_size, stage.optimizer, moments, there, guide, planned.notes(name))


def _steps(stage: RowStage, rows: StageRows | None) -> int | None:
    """Return how many steps Trainer counts; None where that is not known."""
    if stage.steps is not None:
        return stage.steps + sum(stage.more_steps)
    if rows is None:
        return None
    # incomplete batches are dropped
    return math.ceil(stage.epochs * (len(rows) // stage.batch_size)) + sum(stage.more_steps)


def describe(recipe: RunKeys, plan: TrainingPlan) -> str:
    """Return the plan as text, for people."""
    counts, million = plan.counts, 1e6
    lines = [
        f"model       {recipe.model} (shape from {plan.source})"
        + (f", going on from {recipe.adapter}" if recipe.adapter else ""),
        f"parameters  {counts.base / million:,.1f} M: language model {counts.language / million:,.1f} M, "
        f"vision tower {counts.vision / million:,.1f} M, projector {counts.projector / million:,.1f} M",
        _trainable_in_words(counts),
    ]
    for name, stage in plan.stages.items():
        known = "steps unknown" if stage.steps is None else f"{stage.steps:,} steps"
        steps = known if stage.on_disk else f"{known}: its data is not on disk, so inputs are of COCO's size"
        seen = "" if stage.steps is None else f", {stage.steps * stage.batch_size:,} rows seen"
        lines.append(f"stage {name}: {steps}{seen}; one step of {stage.batch_size} rows holds at most")
        for batch in stage.inputs:
            text_tokens = batch.length - batch.image_tokens
            frozen = " (by the frozen model)" if batch.frozen else ""
            tokens = f"{batch.image_tokens} image tokens + {text_tokens} text tokens"
            lines.append(f"  {batch.count:>5} x {batch.kind}: {tokens}{frozen}")
        if stage.guide:
            lines.append(f"  {_guide_in_words(stage.guide)}")
        lines += [f"  {note}" for note in stage.notes]
        if stage.step.cached:
            lines.append(f"  computed twice, in chunks of {stage.step.chunk_tokens:,} tokens (gradient caching)")
    lines += [f"memory      {_gib(plan.total)} of {_gib(plan.available)} GiB", *_parts(plan)]
    return "\n".join(lines)


def _trainable_in_words(counts: Counts) -> str:
    parts = {
        "LoRA": counts.lora,
        "projector": counts.trained_projector,
        "LoRA of the vision tower": counts.vision_lora,
        "token learner": counts.token_learner,
        "projection of each token": counts.projection,
        "lexical head": counts.lexical_head,
    }
    usual = ("LoRA", "projector")
    said = [f"{part} {count / 1e6:,.2f} M" for part, count in parts.items() if count or part in usual]
    return f"trainable   {counts.trainable / 1e6:,.2f} M: {', '.join(said)}"


def _guide_in_words(guide: GuidePlan) -> str:
    stored = "" if guide.vectors is None else f"; its vectors take {_gib(guide.vectors)} GiB of the disk at most"
    return f"before it the guide encodes, whose weights take {_gib(guide.weights)} GiB beside the model{stored}"


def _parts(plan: TrainingPlan) -> list[str]:
    if plan.guided_most:
        guide = max(stage.guide.weights for stage in plan.stages.values() if stage.guide)
        sizes = [
            (plan.base, f"base, {plan.precision}"),
            (plan.trained // 2, "LoRA and projector, float32"),
            (guide, "the guide's weights, while it encodes: more than any step takes"),
            (plan.reserve, "left for the libraries"),
        ]
        return [f"  {_gib(size):>8}  {what}" for size, what in sizes]
    name, stage = _worst(plan)
    step = stage.step
    part = "the vision tower reads" if step.vision > step.language else "the language model learns"
    parts = [
        (plan.base, f"base, {plan.precision}"),
        (plan.trained // 2, "LoRA and projector, float32"),
        (plan.trained // 2, "their gradients"),
        (stage.moments, OPTIMIZERS[stage.optimizer].words),
        (step.pixels, f"pixels of a {'chunk' if step.cached else 'step'} of stage {name}"),
        (max(step.vision, step.language), f"activations, most while {part}"),
        (plan.reserve, "left for the libraries"),
    ]
    return [f"  {_gib(size):>8}  {what}" for size, what in parts]


def _worst(plan: TrainingPlan) -> tuple[str, StagePlan]:
    """Return the name of the stage that takes most, and its plan."""
    name = max(plan.stages, key=lambda name: plan.stages[name].peak)
    return name, plan.stages[name]


def check_fits(recipe: RunKeys, plan: TrainingPlan) -> None:
    """Raise ConfigError, naming what to lower, for a run that does not fit."""
    if plan.total <= plan.available:
        return
    if plan.guided_most:
        raise ConfigError(
            f"{recipe.model} with its guide needs {_gib(plan.total)} GiB and {_gib(plan.available)} are there; choose "
            "a smaller guide, or a larger card"
        )
    name, stage = _worst(plan)
    step, fixed = stage.step, plan.base + plan.trained + stage.moments + plan.reserve
    room = plan.available - fixed
    need = f"{recipe.model} needs {_gib(plan.total)} GiB and {_gib(plan.available)} are there"
    if room <= 0 and plan.base < plan.reserve:
        raise ConfigError(f"{need}; the libraries alone take {_gib(plan.reserve)}")
    if room <= 0:
        smaller = "choose a smaller model" if plan.precision in QUANTIZATIONS else "set quantization: nf4"
        raise ConfigError(f"{need}: the weights alone take {_gib(fixed)}; {smaller}, or a larger card")
    tokens = step.chunk_tokens * room // step.peak
    lower = f"set stages.{name}.chunk_tokens to about {max(1, tokens)} (now {step.chunk_tokens})"
    if not recipe.gradient_checkpointing and step.language >= step.vision:
        lower = f"set gradient_checkpointing: true, or {lower}"
    raise ConfigError(f"{need}; {lower}")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB else f"{size / GIB:.3f}"
