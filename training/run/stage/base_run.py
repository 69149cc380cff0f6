"""What a run of one stage is whatever its rows are for: where its checkpoints lie, its order, its arguments."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import TrainingArguments

from mllm_embed.errors import DataError, MLLMEmbedError
from mllm_embed.files import read_json, write_json

from ...batch.examples import Example, Examples
from ...batch.handover import room_for
from ...batch.progress import Progress
from ...batch.stage_data import RowOrder, StageRows, order_of, untold
from ...data.unreadable import UNREADABLE_FILE, UnreadableLog
from ...distributed.gathering import agreed, world
from ...recipe.checks import first_process, processes
from ...recipe.optimizers import OPTIMIZERS
from ...recipe.row_stage import RowStage
from ...recipe.run_keys import RunKeys
from ...report.board import untold_in_threads
from ..checkpoints import checkpoint_name, last_checkpoint, step_of
from ..stopping import Stopping
from ..waiting import RowsWait
from .stage_trainer import StageTrainer

PROBED_ROWS = 8  # for their longest input


@dataclass
class BaseRun:
    """The training of one stage.

    Args:
        recipe: the run's.
        name: of the stage.
        rows: the stage's.
        bf16: train under bfloat16 autocast.
        seed: of order and dropout; each stage has its own.
    """

    recipe: RunKeys
    name: str
    rows: StageRows
    bf16: bool
    seed: int

    @property
    def stage(self) -> RowStage:
        """The recipe's stage."""
        stage: RowStage = self.recipe.stages[self.name]
        return stage

    @property
    def home(self) -> Path:
        """The folder of its checkpoints."""
        return self.recipe.checkpoints_of(self.name)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        raise NotImplementedError

    @property
    def engine(self) -> dict[str, Any] | None:
        """DeepSpeed's config, None without."""
        return None

    def train_on(self, trainer: StageTrainer, stopping: Stopping, told: bool = True) -> None:
        """Train from the last checkpoint on, where there is one; with `told` the start is printed."""
        step = agreed(self.last_step, self.device)
        checkpoint = checkpoint_name(step) if step else None
        if first_process() and told:
            self._print_start(checkpoint)
        stopping.rows = self.rows_wait if self.recipe.workers else None
        with self.rows_wait.told(), untold_in_threads():
            trainer.train(resume_from_checkpoint=str(self.home / checkpoint) if checkpoint else None)

    def close(self, trainer: StageTrainer) -> None:
        """Tell the rows that could not be read."""
        summary = trainer.unreadable.close()
        if summary:
            tqdm.write(f"{self.name}  {summary}")

    def last_step(self) -> int:
        """Return the step of the last checkpoint; 0 where there is none."""
        last = last_checkpoint(self.home)
        return step_of(last) if last else 0

    def _print_start(self, checkpoint: str | None) -> None:
        """Print where the stage starts, and what its sources give where there are several."""
        if checkpoint:
            tqdm.write(f"{self.name}  goes on from {checkpoint}")
        for sentence in (*self.rows.in_words(), *untold(self.rows)):
            tqdm.write(f"{self.name}  {sentence}")

    @cached_property
    def rows_wait(self) -> RowsWait:
        """The wait for rows that worker processes make."""
        return RowsWait(Progress(self.recipe.workers), self.rows.name, self.home)

    def parts(self, order: RowOrder) -> tuple[int, ...]:
        """Return the steps of each part of the stage; incomplete batches of an epoch are dropped."""
        stage = self.stage
        first = stage.steps or math.ceil(stage.epochs * (len(order) // stage.batch_size))
        return (first, *stage.more_steps)

    def arguments(self, steps: int) -> TrainingArguments:
        """Return Trainer's arguments for so many steps."""
        stage = self.stage
        arguments = TrainingArguments(
            output_dir=str(self.home), seed=self.seed, bf16=self.bf16 and not self.engine, deepspeed=self.engine,
            use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=False,
            per_device_train_batch_size=stage.batch_size // processes(), dataloader_drop_last=True,
            dataloader_num_workers=self.recipe.workers,
            max_steps=steps, learning_rate=stage.learning_rate,
            lr_scheduler_type=stage.schedule, warmup_steps=stage.warmup, weight_decay=stage.weight_decay,
            optim=OPTIMIZERS[stage.optimizer].called, max_grad_norm=stage.max_grad_norm,
            save_steps=stage.save_steps, logging_steps=10, logging_first_step=True,
            report_to=[], remove_unused_columns=False, label_names=[], disable_tqdm=True,
        )  # fmt: skip
        if arguments.device.type == "cuda":
            # one process a GPU: where Trainer sees several it would wrap the model in DataParallel
            arguments._n_gpu = 1
        return arguments

    def unreadable(self) -> UnreadableLog:
        """Return a count of this process's rows that cannot be read."""
        rank, _ = world()
        path = self.recipe.output / (UNREADABLE_FILE if rank == 0 else UNREADABLE_FILE.replace(".", f"-{rank}."))
        return UnreadableLog(path, len(self.rows) // processes(), self.stage.max_unreadable)

    def chunk_tokens(self, find: Callable[[], int]) -> int:
        """Return the tokens that may be alive at once: the stage's, or for "auto" what `find` found first."""
        if self.stage.chunk_tokens != "auto":
            return self.stage.chunk_tokens
        path = self.home / f"chunk_tokens_{world()[0]}.json"
        if path.is_file():  # what a GPU shows depends on what ran before; a run that goes on cuts as it did
            kept = read_json(path, f"remove {path}")
            if type(kept) is not int or kept < 1:
                raise DataError(f"{path} is damaged: it holds no number of tokens; remove {path}")
            return kept
        tokens = find()
        write_json(path, tokens)
        return tokens

    def probed(self, examples: Examples) -> list[Example]:
        """Return examples of some rows from everywhere, for what of them is longest. Raise what their reading does."""
        probed = Examples(self.rows, examples.read, self.seed)  # workers are forked from examples that none has touched
        found: list[Example] = []
        for place in sorted({round(place) for place in np.linspace(0, len(probed) - 1, PROBED_ROWS)}):
            example = probed[place]
            if isinstance(example, MLLMEmbedError):
                raise example
            found.append(example)
        return found

    def check_shared_memory(self, longest: Callable[[], dict[str, torch.Tensor]], inputs: int) -> None:
        """Warn of too little room for what worker processes hand over: so many inputs a row, as large as `longest`
        gives. Raise ConfigError where they cannot start."""
        sentence = room_for(self.recipe.workers, longest, inputs * self.stage.batch_size // processes())
        if sentence and first_process():
            tqdm.write(f"warning: stage '{self.name}': {sentence}", file=sys.stderr)

    def order(self) -> RowOrder:
        """Return the order of the rows. Raise DataError where the sources give no whole batch an epoch."""
        order = order_of(self.stage, self.rows, self.seed, processes())
        if len(order) < self.stage.batch_size:
            raise DataError(
                f"stage '{self.name}': an epoch of {self.stage.where} has {len(order):,} rows, fewer than batch_size "
                f"{self.stage.batch_size}: sources leave out what fills no chunk; lower batch_size or per_source"
            )
        return order
