"""Runs the stages of a recipe one after the other, each from where the last one ended, and goes on after a stop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from transformers import PrinterCallback, TrainingArguments, set_seed

from mllm_embed import MLLMEmbedder
from mllm_embed.devices import bfloat16_pays, device_for
from mllm_embed.errors import ConfigError, MLLMEmbedError
from mllm_embed.folder import Benchmark, DataFolder
from mllm_embed.lora import LoraSpec, add_lora, load_adapter
from mllm_embed.model_card import ModelCardInfo

from .advice import Advice
from .bank import Bank, make_bank
from .card import card_of
from .checks import check_batch, check_dimension, processes, prompts_of
from .chunking import find_chunk_tokens
from .collator import ContrastiveCollator
from .config import Recipe, Stage
from .data import Row
from .data.folder import read_rows
from .examples import Examples, Reader
from .gathering import world
from .gradient_caching import BatchEncoder
from .report import write_report
from .run_folder import check_output, last_checkpoint, write_run
from .run_log import LOG_FILE, Console, JsonLog
from .sampler import GroupedSampler
from .temperature import Temperature
from .trainer import ContrastiveTrainer
from .validation import Validation, benchmark_of


def run_recipe(recipe: Recipe, after_stage: Callable[[str, Path], None] | None = None) -> Path:
    """Train every stage of `recipe`; each leaves its adapter in OUTPUT/STAGE. Returns the last one's folder.

    A finished stage found in the output is not repeated, an unfinished one goes on from its last checkpoint, and gives
    the adapter that an uninterrupted run gives. `after_stage(name, adapter)` is called with the folder of each newly
    trained adapter: for an evaluation, say.

    Raises ConfigError when the output holds another run or the model cannot be trained as asked, DataError for data
    that fails its checks or lacks what the loss needs, ModelError for a model that cannot be loaded.
    """
    folders = _folders(recipe)
    data = {str(path): folder.fingerprint() for path, folder in folders.items()}
    rows = {name: _rows(name, stage, folders[stage.data]) for name, stage in recipe.stages.items()}
    benchmarks = {n: benchmark_of(folders[s.evaluate.data]) for n, s in recipe.stages.items() if s.evaluate}
    finished = check_output(recipe, data)
    bf16 = bfloat16_pays(device_for()) if recipe.bf16 == "auto" else recipe.bf16
    embedder = _load(recipe, bf16)
    check_dimension(recipe, embedder.dimension)
    if finished:
        load_adapter(embedder.model, recipe.output / finished[-1], trainable=True)
    else:
        set_seed(recipe.seed)
        lora = recipe.lora
        spec = LoraSpec(rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, projector=lora.projector)
        add_lora(embedder.model, spec, embedder.family)
    write_run(recipe, data)
    for number, (name, stage) in enumerate(recipe.stages.items()):
        if name not in finished:
            card = partial(card_of, recipe, name, data, rows)
            try:
                _train_stage(
                    recipe, name, stage, rows[name], benchmarks.get(name), embedder, bf16, recipe.seed + number, card
                )
            except MLLMEmbedError:
                with suppress(MLLMEmbedError):  # nothing to draw is not what the user must hear of
                    _report(recipe)
                raise
            _report(recipe)
            if after_stage:
                after_stage(name, recipe.output / name)
    return recipe.output / name


def _report(recipe: Recipe) -> None:
    if world()[0] == 0 and (recipe.output / LOG_FILE).is_file():
        print("\n".join(write_report(recipe.output)))


def _folders(recipe: Recipe) -> dict[Path, DataFolder]:
    """The checked data folders; it is not looked for pictures that no stage needs."""
    pictures: dict[Path, bool] = {}
    for stage in recipe.stages.values():
        pictures[stage.data] = pictures.get(stage.data, False) or stage.pictures
        if stage.evaluate:
            pictures[stage.evaluate.data] = True
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
    benchmark: Benchmark | None,
    embedder: MLLMEmbedder,
    bf16: bool,
    seed: int,
    card: Callable[[], ModelCardInfo],
) -> None:
    if recipe.gradient_checkpointing:
        embedder.model.gradient_checkpointing_enable()
    home = recipe.output / "checkpoints" / name
    arguments = TrainingArguments(
        output_dir=str(home), seed=seed, bf16=bf16,
        use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=torch.cuda.is_available(),
        per_device_train_batch_size=stage.batch_size // processes(), dataloader_drop_last=True,
        dataloader_num_workers=recipe.workers,
        num_train_epochs=stage.epochs, max_steps=stage.steps or -1, learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.schedule, warmup_steps=stage.warmup, weight_decay=stage.weight_decay,
        save_steps=stage.save_steps, save_total_limit=2, logging_steps=10, logging_first_step=True,
        report_to=["tensorboard"], remove_unused_columns=False, label_names=[], disable_tqdm=True,
    )  # fmt: skip
    examples = Examples(rows, Reader(embedder.items.prepared, stage))
    log, banks = JsonLog(recipe.output / LOG_FILE, name), _banks(stage, rows, embedder, home)
    trainer = ContrastiveTrainer(
        model=BatchEncoder(embedder.model, Temperature(stage.temperature, stage.learn_temperature)), args=arguments,
        train_dataset=examples, stage=stage, order=GroupedSampler([row.group for row in rows], stage.per_image, seed),
        banks=banks,
        data_collator=ContrastiveCollator(embedder.items, stage.uses, _chunk_tokens(stage, embedder, examples, bf16)),
        callbacks=[log, Console(name), Advice(stage, rows, banks, log)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    validation = Validation(benchmark, stage.evaluate.every, embedder, trainer) if benchmark else None
    if validation:
        trainer.add_callback(validation)
    trainer.train(resume_from_checkpoint=last_checkpoint(home))
    if validation:
        validation.take_best()
    if trainer.is_world_process_zero():
        embedder.settings = replace(embedder.settings, matryoshka=tuple(stage.matryoshka))
        embedder.save_pretrained(recipe.output / name, card=card())


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
