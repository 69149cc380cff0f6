"""What a run will take, before anything is loaded or fetched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from ..batch.stage_data import StageRows
    from ..recipe.config import Recipe, Stage
    from .inputs import MicroBatch
    from .memory import StepPeak
    from .model import Counts

GIB = 1 << 30


@dataclass(frozen=True)
class StagePlan:
    """One stage: its largest step, what that takes above the weights, and how long it runs where that is known."""

    inputs: list[MicroBatch]
    step: StepPeak
    steps: int | None
    batch_size: int
    on_disk: bool


@dataclass(frozen=True)
class TrainingPlan:
    """A whole recipe; all memory in bytes."""

    source: str
    counts: Counts
    precision: str
    base: int
    stages: dict[str, StagePlan]
    reserve: int
    available: int

    @property
    def trained(self) -> int:
        """Weights, gradients and AdamW's two moments of what is trained, float32 each."""
        return 16 * self.counts.trainable

    @property
    def total(self) -> int:
        return self.base + self.trained + max(stage.step.peak for stage in self.stages.values()) + self.reserve


def make_plan(recipe: Recipe, memory: float | None = None, picture: tuple[int, int] | None = None) -> TrainingPlan:
    """Plan `recipe` for a GPU of `memory` GiB; by default for the GPU here, or without one for this CPU and its RAM.

    `picture` is the width and height of the pictures, by default what the data has. Raises ModelError for a model of
    unknown shape, DataError for data that is there and broken.
    """
    import torch

    from mllm_embed.model.devices import bfloat16_pays, dtype_for
    from mllm_embed.model.lora import LoraSpec

    from ..distributed.chunking import RESERVE, total_memory
    from ..recipe.checks import check_batch, check_dimension
    from .memory import Setting, step_peak
    from .model import build, find_config, stored_bytes

    place = torch.device("cuda" if memory is not None or torch.cuda.is_available() else "cpu")
    on_card = place.type == "cuda"
    bf16 = (on_card or bfloat16_pays(place)) if recipe.bf16 == "auto" else recipe.bf16
    config, source = find_config(recipe.model)
    wanted = (torch.float32 if not bf16 else "auto") if on_card else dtype_for("auto" if bf16 else "float32", place)
    weights = (config.dtype or torch.float32) if wanted == "auto" else wanted
    spec = LoraSpec(recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout, recipe.lora.projector)
    setting = Setting(place.type, torch.bfloat16 if bf16 else None, recipe.attention, recipe.gradient_checkpointing)
    check_dimension(recipe, config.get_text_config().hidden_size)
    model, counts = build(config, spec, weights)
    base = stored_bytes(model, recipe.quantization)
    available = round(memory * GIB) if memory is not None else total_memory(place)
    stages: dict[str, StagePlan] = {}
    for name, stage in recipe.stages.items():
        rows = _rows(stage)
        if rows is not None:
            check_batch(name, stage, len(rows))
        inputs = _inputs(recipe, stage, rows, config, picture)
        tokens = None if stage.chunk_tokens == "auto" else stage.chunk_tokens
        room = available - base - 16 * counts.trainable
        stages[name] = StagePlan(
            inputs,
            step_peak(model, inputs, setting, tokens, room),
            _steps(stage, rows),
            stage.batch_size,
            rows is not None,
        )
    precision = recipe.quantization or str(weights).removeprefix("torch.")
    return TrainingPlan(source, counts, precision, base, stages, RESERVE[place.type], available)


def _rows(stage: Stage) -> StageRows | None:
    """The stage's rows, or None where its data is not on disk (yet)."""
    from ..batch.stage_data import open_stage

    if not all(source.path.exists() or glob(str(source.path)) for source in stage.data):
        return None
    return open_stage(stage)[0]


def _steps(stage: Stage, rows: StageRows | None) -> int | None:
    """As Trainer counts them: incomplete batches are dropped."""
    if stage.steps is not None or rows is None:
        return stage.steps
    return math.ceil(stage.epochs * (len(rows) // stage.batch_size))


def _inputs(
    recipe: Recipe, stage: Stage, rows: StageRows | None, config: Any, picture: tuple[int, int] | None
) -> list[MicroBatch]:
    from mllm_embed.inputs.prompts import PROMPT_SETS
    from mllm_embed.saving.settings import read_settings

    from ..recipe.checks import prompts_of
    from .inputs import micro_batches
    from .model import locate

    folder = locate(recipe.model)
    saved = read_settings(folder) if folder else None
    prompts = prompts_of(recipe) or (saved.prompts if saved else PROMPT_SETS["instructcir"])
    return micro_batches(stage, None if rows is None else rows.sample(), config, _processor(folder), prompts, picture)


def _processor(folder: Path | None) -> Any:
    """The model's processor where it is on this disk, else None."""
    from mllm_embed.model.loading import load_processor

    try:
        return load_processor(str(folder)) if folder else None
    except ModelError:
        return None  # a folder with a config alone


def describe(recipe: Recipe, plan: TrainingPlan) -> str:
    """The plan as text."""
    counts, million = plan.counts, 1e6
    lines = [
        f"model       {recipe.model} (shape from {plan.source})",
        f"parameters  {counts.base / million:,.1f} M: language model {counts.language / million:,.1f} M, "
        f"vision tower {counts.vision / million:,.1f} M, projector {counts.projector / million:,.1f} M",
        f"trainable   {counts.trainable / million:,.2f} M: LoRA {counts.lora / million:,.2f} M, "
        f"projector {counts.trained_projector / million:,.2f} M",
    ]
    for name, stage in plan.stages.items():
        known = "steps unknown" if stage.steps is None else f"{stage.steps:,} steps"
        steps = known if stage.on_disk else f"{known}: its data is not on disk, so inputs are of COCO's size"
        seen = "" if stage.steps is None else f", {stage.steps * stage.batch_size:,} rows seen"
        lines.append(f"stage {name}: {steps}{seen}; one step of {stage.batch_size} rows holds at most")
        for batch in stage.inputs:
            words = batch.length - batch.image_tokens
            tower = " (by the frozen model)" if batch.frozen else ""
            tokens = f"{batch.image_tokens} image tokens + {words} text tokens"
            lines.append(f"  {batch.count:>5} x {batch.kind}: {tokens}{tower}")
        if stage.step.cached:
            lines.append(f"  computed twice, in chunks of {stage.step.chunk_tokens:,} tokens (gradient caching)")
    lines += [f"memory      {_gib(plan.total)} of {_gib(plan.available)} GiB", *_parts(plan)]
    return "\n".join(lines)


def _parts(plan: TrainingPlan) -> list[str]:
    name, worst = max(plan.stages.items(), key=lambda item: item[1].step.peak)
    step = worst.step
    reading = step.vision > step.language
    parts = [
        (plan.base, f"base, {plan.precision}"),
        (plan.trained // 4, "LoRA and projector, float32"),
        (plan.trained // 4, "their gradients"),
        (plan.trained // 2, "AdamW's two moments"),
        (step.pixels, f"pixels of a {'chunk' if step.cached else 'step'} of stage {name}"),
        (max(step.vision, step.language), f"activations, most while {_where(reading)}"),
        (plan.reserve, "left for the libraries"),
    ]
    return [f"  {_gib(size):>8}  {what}" for size, what in parts]


def _where(reading: bool) -> str:
    return "the vision tower reads" if reading else "the language model learns"


def check_fits(recipe: Recipe, plan: TrainingPlan) -> None:
    """Raise ConfigError, naming what to lower, for a run that does not fit."""
    if plan.total <= plan.available:
        return
    name, worst = max(plan.stages.items(), key=lambda item: item[1].step.peak)
    fixed = plan.base + plan.trained + plan.reserve
    room = plan.available - fixed
    need = f"{recipe.model} needs {_gib(plan.total)} GiB and {_gib(plan.available)} are there"
    if room <= 0 and plan.base < plan.reserve:
        raise ConfigError(f"{need}; the libraries alone take {_gib(plan.reserve)}")
    if room <= 0:
        smaller = "choose a smaller model" if plan.precision in ("nf4", "int8") else "set quantization: nf4"
        raise ConfigError(f"{need}: the weights alone take {_gib(fixed)}; {smaller}, or a larger card")
    step = worst.step
    tokens = step.chunk_tokens * room // step.peak
    cure = f"set stages.{name}.chunk_tokens to about {max(1, tokens)} (now {step.chunk_tokens})"
    if not recipe.gradient_checkpointing and step.language >= step.vision:
        cure = f"set gradient_checkpointing: true, or {cure}"
    raise ConfigError(f"{need}; {cure}")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB else f"{size / GIB:.3f}"
