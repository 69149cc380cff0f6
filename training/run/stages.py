"""Runs the stages of a recipe one after the other, each from where the last one ended, and goes on after a stop."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from transformers import set_seed

from mllm_embed import MLLMEmbedder
from mllm_embed.data.folder import DataFolder
from mllm_embed.errors import ConfigError, MLLMEmbedError
from mllm_embed.files import folder_lock
from mllm_embed.model.devices import bfloat16_pays, device_for
from mllm_embed.model.lora import LoraSpec, add_lora, load_adapter
from mllm_embed.model.projection import new_projection, read_projection
from mllm_embed.saving.provenance import SPACE_FIELDS

from ..batch.stage_data import StageRows, open_stage
from ..distill.teacher import Teacher
from ..distributed.zero import forget_config, zero_config
from ..recipe.checks import check_batch, check_dimension, first_process, prompts_of
from ..recipe.config import Recipe
from ..report.report import write_report
from ..report.run_log import LOG_FILE
from .card import card_of
from .run_folder import check_output, clear_leftovers, write_run
from .stage_run import StageRun
from .stopping import Stopped, Stopping
from .validation import benchmark_of


def run_recipe(recipe: Recipe, after_stage: Callable[[str, Path], None] | None = None) -> Path:
    """Train every stage of `recipe`; each leaves its adapter in OUTPUT/STAGE. Returns the last one's folder.

    A finished stage found in the output is not repeated, an unfinished one goes on from its last checkpoint, and gives
    the adapter that an uninterrupted run gives. `after_stage(name, adapter)` is called with the folder of each newly
    trained adapter: for an evaluation, say.

    Raises ConfigError when the output holds another run or the model cannot be trained as asked, DataError for data
    that fails its checks or lacks what the loss needs, ModelError for a model that cannot be loaded or whose training
    goes wrong, Stopped after a SIGTERM.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))  # or every process would load onto the first GPU
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed, where it is installed, warns of a CPU
    zero = zero_config(recipe)
    rows, data = _open(recipe)
    validation = {name: DataFolder.open(s.evaluate.data) for name, s in recipe.stages.items() if s.evaluate}
    data |= {str(folder.root): folder.fingerprint() for folder in validation.values()}
    benchmarks = {name: benchmark_of(folder) for name, folder in validation.items()}
    bf16 = bfloat16_pays(device_for()) if recipe.bf16 == "auto" else recipe.bf16
    teacher = Teacher(recipe, bf16) if recipe.teacher else None
    if teacher:
        data["teacher"] = teacher.fingerprint
    finished = check_output(recipe, data)
    stopping = Stopping()
    with ExitStack() as within:
        within.enter_context(stopping.listening())
        embedder = _adapted(recipe, bf16, finished, teacher)
        check_dimension(recipe, embedder.dimension)
        if first_process():
            within.enter_context(folder_lock(recipe.output))
            clear_leftovers(recipe)
            write_run(recipe, data)
        for number, name in enumerate(recipe.stages):
            if name in finished:
                continue
            if stopping.asked:
                raise Stopped
            run = StageRun(
                recipe, name, rows[name], benchmarks.get(name), embedder, bf16, recipe.seed + number, zero, teacher
            )
            try:
                run.train(partial(card_of, recipe, name, data, rows), stopping)
            except MLLMEmbedError:
                with suppress(MLLMEmbedError):  # nothing to draw is not what the user must hear of
                    _report(recipe, name)
                raise
            _report(recipe, name)
            finished.append(name)
            if zero and len(finished) < len(recipe.stages):  # DeepSpeed's engine leaves a model that no other can take
                forget_config()
                embedder = _adapted(recipe, bf16, finished, teacher)
            if after_stage:
                after_stage(name, recipe.output / name)
    return recipe.output / name


def _open(recipe: Recipe) -> tuple[dict[str, StageRows], dict[str, str]]:
    """The rows of every stage, and of all that they come from the fingerprints."""
    rows: dict[str, StageRows] = {}
    data: dict[str, str] = {}
    for name, stage in recipe.stages.items():
        rows[name], fingerprints = open_stage(stage)
        check_batch(name, stage, len(rows[name]))
        data |= fingerprints
    return rows, data


def _adapted(recipe: Recipe, bf16: bool, finished: list[str], teacher: Teacher | None) -> MLLMEmbedder:
    """The base with a new adapter, or that of the last finished stage."""
    embedder = _load(recipe, bf16)
    model = embedder.model
    if teacher:
        embedder.settings = replace(
            embedder.settings, target_space={key: teacher.provenance[key] for key in SPACE_FIELDS}
        )
    if finished:
        load_adapter(model, recipe.output / finished[-1], trainable=True)
        model.projection = read_projection(recipe.output / finished[-1])
    else:
        set_seed(recipe.seed)
        lora = recipe.lora
        spec = LoraSpec(rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, projector=lora.projector)
        add_lora(model, spec, embedder.family)
        if teacher and teacher.dimension != model.width:
            model.projection = new_projection(model.states_width, teacher.dimension)
    if model.projection is not None:
        model.projection.to(embedder.device).requires_grad_(teacher is not None)
    return embedder


def _load(recipe: Recipe, bf16: bool) -> MLLMEmbedder:
    """The base model: under autocast what "auto" means on this processor, in float32 without it."""
    embedder = MLLMEmbedder.from_pretrained(
        recipe.model, dtype="auto" if bf16 else "float32", quantization=recipe.quantization,
        prompts=prompts_of(recipe),
        pooling=recipe.pooling, bidirectional=recipe.bidirectional,
    )  # fmt: skip
    if embedder.model.adapted:
        raise ConfigError(
            f"model: {recipe.model} is an adapter folder; name its base, or save it with merge=True first"
        )
    try:
        embedder.model.base.set_attn_implementation(recipe.attention)
    except (ImportError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"attention: '{recipe.attention}' does not work here ({reason})") from error
    return embedder


def _report(recipe: Recipe, stage: str) -> None:
    if first_process() and (recipe.output / LOG_FILE).is_file():
        told = write_report(recipe.output)
        print("\n".join(line for line in told if line.startswith(f"{stage}:")))
