"""Runs the stages of a recipe one after the other, each from where the last one ended, and goes on after a stop."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments, set_seed

from mllm_embed import MLLMEmbedder
from mllm_embed.devices import bfloat16_pays, device_for
from mllm_embed.errors import ConfigError
from mllm_embed.files import write_file
from mllm_embed.folder import DataFolder
from mllm_embed.lora import LoraSpec, add_lora, load_adapter
from mllm_embed.model_card import ModelCardInfo

from .bank import Bank, make_bank
from .card import card_of
from .checkpoints import last_checkpoint
from .checks import check_batch, check_dimension, first_process, processes, prompts_of
from .chunking import find_chunk_tokens
from .collator import ContrastiveCollator
from .config import Recipe, Stage
from .data import Row
from .data.folder import read_rows
from .examples import Examples, Reader
from .gradient_caching import BatchEncoder
from .run_folder import check_output, check_space, clear_leftovers, write_run
from .sampler import GroupedSampler
from .stopping import Stopped, Stopping
from .temperature import Temperature
from .trainer import ContrastiveTrainer
from .zero import forget_config, whole, zero_config


class JsonLog(TrainerCallback):
    """Appends every logged step to log.jsonl; a run that goes on first drops what it will repeat."""

    def __init__(self, path: Path, stage: str):
        self.path, self.stage = path, stage

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero and self.path.exists():
            *lines, last = self.path.read_text(encoding="utf-8").split("\n")  # a full disk may have cut the last one
            rows = [json.loads(line) for line in lines]
            kept = [row for row in rows if row["stage"] != self.stage or row["step"] <= state.global_step]
            write_file(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"stage": self.stage, "step": state.global_step, **logs}) + "\n")


def run_recipe(recipe: Recipe, after_stage: Callable[[str, Path], None] | None = None) -> Path:
    """Train every stage of `recipe`; each leaves its adapter in OUTPUT/STAGE. Returns the last one's folder.

    A finished stage found in the output is not repeated, an unfinished one goes on from its last checkpoint, and gives
    the adapter that an uninterrupted run gives. `after_stage(name, adapter)` is called with the folder of each newly
    trained adapter: for an evaluation, say.

    Raises ConfigError when the output holds another run or the model cannot be trained as asked, DataError for data
    that fails its checks or lacks what the loss needs, ModelError for a model that cannot be loaded.
    """
    zero = zero_config(recipe)
    folders = _folders(recipe)
    data = {str(path): folder.fingerprint() for path, folder in folders.items()}
    rows = {name: _rows(name, stage, folders[stage.data]) for name, stage in recipe.stages.items()}
    finished = check_output(recipe, data)
    bf16 = bfloat16_pays(device_for()) if recipe.bf16 == "auto" else recipe.bf16
    stopping = Stopping()
    with stopping.listening():
        embedder = _adapted(recipe, bf16, finished)
        check_dimension(recipe, embedder.dimension)
        if first_process():
            clear_leftovers(recipe)
            write_run(recipe, data)
        for number, (name, stage) in enumerate(recipe.stages.items()):
            if name in finished:
                continue
            if stopping.asked:
                raise Stopped
            card = card_of(recipe, name, data, rows)
            _train_stage(recipe, name, stage, rows[name], embedder, bf16, recipe.seed + number, card, zero, stopping)
            finished.append(name)
            if zero and len(finished) < len(recipe.stages):  # DeepSpeed's engine leaves a model that no other can take
                forget_config()
                embedder = _adapted(recipe, bf16, finished)
            if after_stage:
                after_stage(name, recipe.output / name)
    return recipe.output / name


def _adapted(recipe: Recipe, bf16: bool, finished: list[str]) -> MLLMEmbedder:
    """The base with a new adapter, or that of the last finished stage."""
    embedder = _load(recipe, bf16)
    if finished:
        load_adapter(embedder.model, recipe.output / finished[-1], trainable=True)
    else:
        set_seed(recipe.seed)
        lora = recipe.lora
        spec = LoraSpec(rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, projector=lora.projector)
        add_lora(embedder.model, spec, embedder.family)
    return embedder


def _folders(recipe: Recipe) -> dict[Path, DataFolder]:
    """The checked data folders; it is not looked for pictures that no stage needs."""
    pictures: dict[Path, bool] = {}
    for stage in recipe.stages.values():
        pictures[stage.data] = pictures.get(stage.data, False) or stage.pictures
    return {path: DataFolder.open(path, needed) for path, needed in pictures.items()}


def _rows(name: str, stage: Stage, folder: DataFolder) -> list[Row]:
    rows = read_rows(folder, stage.data, stage.rows, stage.roles)
    check_batch(name, stage, rows)
    return rows


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


def _train_stage(
    recipe: Recipe,
    name: str,
    stage: Stage,
    rows: list[Row],
    embedder: MLLMEmbedder,
    bf16: bool,
    seed: int,
    card: ModelCardInfo,
    zero: dict[str, Any] | None,
    stopping: Stopping,
) -> None:
    if recipe.gradient_checkpointing:
        embedder.model.gradient_checkpointing_enable()
    home = recipe.output / "checkpoints" / name
    arguments = TrainingArguments(
        output_dir=str(home), seed=seed, bf16=bf16 and not zero, deepspeed=zero,
        use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=torch.cuda.is_available(),
        per_device_train_batch_size=stage.batch_size // processes(), dataloader_drop_last=True,
        dataloader_num_workers=recipe.workers,
        num_train_epochs=stage.epochs, max_steps=stage.steps or -1, learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.schedule, warmup_steps=stage.warmup, weight_decay=stage.weight_decay,
        save_steps=stage.save_steps, logging_steps=10, logging_first_step=True,
        report_to=["tensorboard"], remove_unused_columns=False, label_names=[],
    )  # fmt: skip
    examples = Examples(rows, Reader(embedder.items.prepared, stage))
    temperature = Temperature(stage.temperature, stage.learn_temperature)
    encoder = BatchEncoder(embedder.model, temperature, aligned=bool(zero), bf16=bf16 and bool(zero))
    check_space(recipe, name, encoder.trainable().values())
    trainer = ContrastiveTrainer(
        model=encoder, args=arguments,
        train_dataset=examples, stage=stage, order=GroupedSampler([row.group for row in rows], stage.per_image, seed),
        banks=_banks(stage, rows, embedder, home),
        data_collator=ContrastiveCollator(embedder.items, stage.uses, _chunk_tokens(stage, embedder, examples, bf16)),
        callbacks=[JsonLog(recipe.output / "log.jsonl", name), stopping],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=last_checkpoint(home))
    with whole(encoder.trainable()):
        if trainer.is_world_process_zero():
            embedder.settings = replace(embedder.settings, matryoshka=tuple(stage.matryoshka))
            embedder.save_pretrained(recipe.output / name, card=card)
    trainer.accelerator.wait_for_everyone()


def _chunk_tokens(stage: Stage, embedder: MLLMEmbedder, examples: Examples, bf16: bool) -> int:
    if stage.chunk_tokens != "auto":
        return stage.chunk_tokens
    probe = ContrastiveCollator(embedder.items, stage.uses, sys.maxsize)([examples[0], examples[1]])["batch"]
    return find_chunk_tokens(embedder.model, probe.live, bf16)


def _banks(stage: Stage, rows: list[Row], embedder: MLLMEmbedder, home: Path) -> dict[str, Bank]:
    terms = [term for term in stage.terms if term.bank]
    return {
        term.name: make_bank(term, rows, embedder.encode, home / f"bank-{number}.safetensors", stage.hard_negatives)
        for number, term in enumerate(terms)
    }
