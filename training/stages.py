"""Runs the stages of a recipe one after the other, each from where the last one ended, and goes on after a stop."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainingArguments, set_seed

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.files import write_json
from mllm_embed.lora import LoraSpec, add_lora, load_adapter
from mllm_embed.prompts import PROMPT_SETS

from .collator import ContrastiveCollator
from .config import Recipe, Stage
from .data import Row
from .data.folder import read_rows
from .trainer import BatchEncoder, ContrastiveTrainer

RUN_FILE = "run.json"


class Rows(Dataset):
    """Rows as Trainer wants them; pictures are read by the collator."""

    def __init__(self, rows: list[Row]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


class JsonLog(TrainerCallback):
    """Appends every logged step to log.jsonl."""

    def __init__(self, path: Path, stage: str):
        self.path, self.stage = path, stage

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"stage": self.stage, "step": state.global_step, **logs}) + "\n")


def run_recipe(recipe: Recipe, after_stage: Callable[[str, Path], None] = lambda name, adapter: None) -> MLLMEmbedder:
    """Train every stage of `recipe`; each leaves its adapter in OUTPUT/STAGE. Returns the trained embedder.

    A finished stage found in the output is not repeated, an unfinished one goes on from its last checkpoint, and gives
    the adapter that an uninterrupted run gives. `after_stage(name, adapter)` is called with each new
    adapter's folder: for an evaluation, say. Raises ConfigError when the output holds a run of another recipe.
    """
    rows = {name: read_rows(stage.data, stage.rows, stage.roles) for name, stage in recipe.stages.items()}
    for name, stage in recipe.stages.items():
        if len(rows[name]) < stage.batch_size:
            raise DataError(
                f"stage '{name}': {stage.data} has {len(rows[name])} {stage.rows}, "
                f"fewer than batch_size {stage.batch_size}; lower it or add rows"
            )
    if recipe.prompts not in PROMPT_SETS:
        raise ConfigError(f"prompts: '{recipe.prompts}' is not one of {', '.join(PROMPT_SETS)}")
    embedder = MLLMEmbedder.from_pretrained(recipe.model, prompts=PROMPT_SETS[recipe.prompts])
    embedder.model.base.set_attn_implementation(recipe.attention)
    _claim_output(recipe)
    set_seed(recipe.seed)
    done = [name for name in recipe.stages if (recipe.output / name / "adapter_config.json").is_file()]
    if done:
        load_adapter(embedder.model, recipe.output / done[-1], trainable=True)
    else:
        lora = recipe.lora
        spec = LoraSpec(rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, projector=lora.projector)
        add_lora(embedder.model, spec, embedder.family)
    for number, (name, stage) in enumerate(recipe.stages.items()):
        if name not in done:
            set_seed(recipe.seed + number)  # the same whether or not the stages before it ran in this process
            _train_stage(recipe, name, stage, rows[name], embedder)
            after_stage(name, recipe.output / name)
    embedder.model.eval()
    return embedder


def _claim_output(recipe: Recipe) -> None:
    """Write run.json, or check that the run already there is this one."""
    path = recipe.output / RUN_FILE
    wanted = json.loads(recipe.model_dump_json(exclude={"output", "workers"}))
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))["recipe"]
        changed = [key for key in wanted if found.get(key) != wanted[key]]
        if changed:
            raise ConfigError(
                f"{recipe.output} holds a run of another recipe (it differs in {', '.join(changed)}); "
                "choose another output or remove that folder"
            )
        return
    recipe.output.mkdir(parents=True, exist_ok=True)
    packages = ("torch", "transformers", "peft", "accelerate")
    run = {
        "recipe": wanted,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "commit": _commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_json(path, run)


def _commit() -> str | None:
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return answer.stdout.strip() or None


def _train_stage(recipe: Recipe, name: str, stage: Stage, rows: list[Row], embedder: MLLMEmbedder) -> None:
    folder = recipe.output / name
    bf16 = _bf16_pays() if recipe.bf16 == "auto" else recipe.bf16
    if recipe.gradient_checkpointing:
        embedder.model.gradient_checkpointing_enable()
    arguments = TrainingArguments(
        output_dir=str(recipe.output / "checkpoints" / name), seed=recipe.seed, bf16=bf16,
        use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=torch.cuda.is_available(),
        per_device_train_batch_size=stage.batch_size, dataloader_drop_last=True, dataloader_num_workers=recipe.workers,
        num_train_epochs=stage.epochs, max_steps=stage.steps or -1, learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.schedule, warmup_steps=stage.warmup, weight_decay=stage.weight_decay,
        save_steps=stage.save_steps, save_total_limit=2, logging_steps=10, logging_first_step=True,
        report_to=["tensorboard"], remove_unused_columns=False, label_names=[],
    )  # fmt: skip
    trainer = ContrastiveTrainer(
        model=BatchEncoder(embedder.model), args=arguments, train_dataset=Rows(rows), stage=stage,
        data_collator=ContrastiveCollator(embedder.items, stage.roles),
        callbacks=[JsonLog(recipe.output / "log.jsonl", name)],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=_last_checkpoint(Path(arguments.output_dir)))
    if trainer.is_world_process_zero():
        embedder.save_pretrained(folder)


def _bf16_pays() -> bool:
    """Whether bfloat16 is faster here: on a GPU that has it, on a CPU with AVX-512 instructions for it."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def _last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint: trainer_state.json is what Trainer writes last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if path.stat().st_size]
    return str(max(whole, key=lambda path: int(path.name.split("-")[-1]))) if whole else None
