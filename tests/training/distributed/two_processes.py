"""What each of two processes does in test_distributed.py: `python two_processes.py FOLDER`, or one process by import.

FOLDER holds tasks.json, a list of [name, kind, engine, recipe, overrides]; FOLDER/NAME.safetensors come out.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

ENGINES = {"alone": None, "ddp": None, "zero2": "zero2", "zero3": "zero3"}


def config(engine: str, folder: Path) -> str | None:
    """The shipped config; for ZeRO-3 without its favours to small layers, of which the tiny model is made."""
    from mllm_embed.training.distributed.zero import CONFIGS

    if engine != "zero3":
        return ENGINES[engine]
    values = json.loads((CONFIGS / "zero3.json").read_text())
    values["zero_optimization"] |= {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}
    path = folder / "zero3-all.json"
    if not path.exists():
        path.write_text(json.dumps(values))
    return str(path)


@contextmanager
def plain_descent(accumulation: int):
    """One step of gradient descent at rate 1 without clipping: what a parameter moves by is its gradient."""
    from mllm_embed.training.run.stage import base_run as stage_run

    real = stage_run.TrainingArguments

    def arguments(**values: Any) -> Any:
        values |= {
            "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "warmup_steps": 0,
            "max_grad_norm": 0.0, "gradient_accumulation_steps": accumulation, "save_strategy": "no",
        }  # fmt: skip
        return real(**values)

    stage_run.TrainingArguments = arguments
    try:
        yield
    finally:
        stage_run.TrainingArguments = real


@contextmanager
def counting(found: dict[str, list[int]]):
    """Counts the collectives of gradients that DDP sends, by its hook, and notes how many chunks the batches have."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    from mllm_embed.training.run import trainer as trainer_module

    real = trainer_module.ContrastiveTrainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        batch = inputs["batch"]
        found["chunks"].append(len(batch.live) * batch.cached)
        if isinstance(model, torch.nn.parallel.DistributedDataParallel) and not hasattr(model, "counted"):
            model.counted = True

            def hook(state, bucket):  # DDP compares annotations, which are text here, with types
                found["buckets"].append(bucket.buffer().numel())
                return allreduce_hook(state, bucket)

            model.register_comm_hook(None, hook)
        return real(self, model, inputs, *args, **kwargs)

    trainer_module.ContrastiveTrainer.compute_loss = compute_loss
    try:
        yield
    finally:
        trainer_module.ContrastiveTrainer.compute_loss = real


@contextmanager
def undrawn():
    """Draws no run: that takes longer than its steps."""
    from mllm_embed.training.run.stage import common

    real = common.write_report
    common.write_report = lambda run: []
    try:
        yield
    finally:
        common.write_report = real


@contextmanager
def capturing(moved: dict[str, torch.Tensor]):
    """Notes by what training moves each parameter, the temperature's too, which no adapter holds."""
    from mllm_embed.training.distributed.zero import whole
    from mllm_embed.training.run.stage.stage_trainer import StageTrainer

    real = StageTrainer.train

    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = {name: p.detach().clone() for name, p in self._trainable.items()}
        done = real(self, *args, **kwargs)
        parameters = self._trainable
        with whole(parameters):
            moved.update({name: before[name] - p.detach().cpu() for name, p in parameters.items()})
        return done

    StageTrainer.train = train
    try:
        yield
    finally:
        StageTrainer.train = real


@contextmanager
def hard_negatives():
    """Rows that bring one, two or three hard negatives of different lengths."""
    from mllm_embed.training.data import open as opening

    real = opening.read_rows

    def read_rows(folder: Any, path: Any, kind: str, *more: Any) -> list[Any]:
        rows = real(folder, path, kind, *more)
        if kind == "pairs":
            return rows
        texts = [[f"{'long ' * 9 * (n + 1)}negative {row}" for n in range(1 + row % 3)] for row in range(len(rows))]
        return [
            replace(row, hard_negatives=tuple(replace(row.roles["target_text"], text=text) for text in brought))
            for row, brought in zip(rows, texts, strict=True)
        ]

    opening.read_rows = read_rows
    try:
        yield
    finally:
        opening.read_rows = real


class Stop(Exception):
    """As if the process died."""


@contextmanager
def stopped_after(steps: int):
    """Ends what runs within after so many steps, and fails where nothing came so far."""
    from mllm_embed.training.run.stage.stage_trainer import StageTrainer

    real = StageTrainer.taken

    def taken(self: Any, inputs: Any) -> Any:
        if self.state.global_step == steps:
            raise Stop
        return real(self, inputs)

    StageTrainer.taken = taken
    try:
        with suppress(Stop):
            yield
            raise AssertionError("the run was not stopped")
    finally:
        StageTrainer.taken = real


def run_any(recipe: Path | str, overrides: list[str]) -> None:
    """Run a recipe of whatever model."""
    from mllm_embed.training.recipe.config import Recipe
    from mllm_embed.training.recipe.recipe_files import load_any
    from mllm_embed.training.reranking.stages import run_rerank
    from mllm_embed.training.run.stages import run_recipe

    loaded = load_any(recipe, overrides)
    run_recipe(loaded) if isinstance(loaded, Recipe) else run_rerank(loaded)


def gradients(recipe: Path, overrides: list[str], accumulation: int) -> tuple[dict[str, torch.Tensor], dict[str, list]]:
    moved, found = {}, {"chunks": [], "buckets": []}
    with undrawn(), hard_negatives(), plain_descent(accumulation), counting(found), capturing(moved):
        run_any(recipe, overrides)
    return moved, found


def main(folder: Path) -> None:
    import deepspeed.ops

    from mllm_embed.training.distributed.gathering import agreed
    from mllm_embed.training.distributed.zero import forget_config

    deepspeed.ops.__compatible_ops__ = {}  # or it compiles a C++ operator for sums in shared memory, half a minute
    rank = int(os.environ["RANK"])
    start = time.monotonic()
    for name, kind, engine, recipe, overrides in json.loads((folder / "tasks.json").read_text()):
        overrides = [*overrides, f"output={folder / name}"]
        os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # an engine before leaves it
        zero = config(engine, folder)
        overrides += [f"deepspeed={zero}"] if zero else []
        try:
            if kind == "run":
                with undrawn(), hard_negatives():
                    with stopped_after(1):
                        run_any(recipe, overrides)
                    forget_config()
                    run_any(recipe, overrides)
            else:
                moved, found = gradients(Path(recipe), overrides, int(kind))
                if rank == 0:
                    save_file({k: v.contiguous() for k, v in moved.items()}, folder / f"{name}.safetensors")
                (folder / f"{name}-{rank}.json").write_text(json.dumps(found))
            forget_config()
        except BaseException as error:
            (folder / f"{name}-{rank}.error").write_text(f"{type(error).__name__}: {error}")
            traceback.print_exc()
            os._exit(1)  # the other process may wait for this one for ever
        print(f"done {name} {time.monotonic() - start:.1f}", flush=True)
    here = torch.device("cpu")
    answers = [agreed(lambda: 3 if rank == 0 else 5, here), agreed(lambda: rank, here)]
    (folder / f"agreed-{rank}.json").write_text(json.dumps(answers))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
