"""transformers' Trainer as every stage uses it: its rows and their order, its log, and what a checkpoint holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Sampler
from transformers.trainer import SCHEDULER_NAME

from mllm_embed.errors import ModelError, reason
from mllm_embed.files import check_space, write_json

from ...batch.stage_data import RowOrder
from ...data.unreadable import UnreadableLog
from ...distributed.zero import OPTIMIZER_FILE, load_moments, save_moments, whole
from ...recipe.row_stage import RowStage
from ..checkpoints import ASIDE, checkpoint_bytes, checkpoint_name, failing_disk, publish
from ..divergence import StepGuard
from ..optimizer import StageOptimizer, scheduler, set_rates
from ..run_folder import RUN_FILE
from ..stopping import Stopping
from ..throughput import StepBatch, Throughput

TRAINABLE_FILE = "trainable.safetensors"


class StageTrainer(StageOptimizer):
    """A Trainer of one stage, without its loss.

    A checkpoint holds the trainable parameters alone, beside Trainer's own optimiser, scheduler and random states.
    """

    def __init__(
        self,
        *args: Any,
        stage: RowStage,
        home: Path,
        order: RowOrder,
        unreadable: UnreadableLog,
        stopping: Stopping,
        guard: StepGuard,
        **kwargs: Any,
    ):
        """Set the stage beside what Trainer takes.

        Args:
            stage: what is trained.
            home: the stage's folder of checkpoints.
            order: gives the rows' numbers.
            unreadable: counts the rows that could not be read.
            stopping: is told of the wait for rows; it is no callback by that alone.
            guard: stops a run gone wrong.
        """
        super().__init__(*args, **kwargs)
        self.stage, self.home, self.order, self.unreadable, self.stopping = stage, home, order, unreadable, stopping
        self.parts = (self.args.max_steps - sum(stage.more_steps), *stage.more_steps)
        # the loss is a mean over a step's rows, which Trainer has to divide by the steps that it accumulates
        self.model_accepts_loss_kwargs = False
        self.throughput, self.guard = Throughput(self.args.device), guard
        self.add_callback(self.throughput)
        self.add_callback(guard)

    def taken(self, inputs: dict[str, Any]) -> Any:
        """Return the batch of a step, once it is counted. Raise the error that a worker handed on in its place."""
        if "error" in inputs:
            raise inputs["error"]
        batch: StepBatch = inputs["batch"]
        for row in batch.unreadable:
            self.unreadable.add(*row)
        self.throughput.unreadable = self.unreadable.met  # which a run that goes on remembers
        self.unreadable.count(self.args.per_device_train_batch_size)
        self.throughput.add_batch(batch)
        return batch

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log a line, with the figures since the last one where it is a line of steps."""
        if "loss" in logs:
            logs |= self.rates | self.throughput.figures()
        if "train_runtime" not in logs:  # Trainer's closing line says nothing that the others do not
            super().log(logs, *args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Return the batches of a step, and measure how long they were waited for."""
        self.throughput.start_step()
        with self.stopping.waiting():
            samples = super().get_batch_samples(*args, **kwargs)
        self.throughput.rows_arrived()
        return samples

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        self.guard.check_gradient(norm)
        return norm

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.order

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the schedule of the stage's parts, made for `optimizer`, by default Trainer's."""
        if self.lr_scheduler is None:
            given: Any = optimizer or self.optimizer
            self.lr_scheduler = scheduler(self.args, self.parts, given)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
            optimizer: Any = self.optimizer
            if checkpoint is not None and not self.is_deepspeed_enabled:
                set_rates(self.lr_scheduler, optimizer)
        except ValueError as error:  # torch's, for other groups of parameters than it is given
            raise ModelError(
                f"{checkpoint} is of a version that kept the optimiser's state otherwise ({reason(error)}); train the "
                f"stage on with the version that {self.home.parents[1] / RUN_FILE} names, or remove {self.home} to "
                "train it from its first step"
            ) from error

    # ---- checkpoints: written aside and sealed; under ZeRO whole tensors of what it cut

    @property
    def _trainable(self) -> dict[str, nn.Parameter]:
        return self.accelerator.unwrap_model(self.model).trainable()

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.home / ASIDE)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        written = self.home / ASIDE / checkpoint_name(self.state.global_step)
        check_space(self.home, checkpoint_bytes(self._trainable.values(), self.stage.optimizer), "a checkpoint")
        with failing_disk(written):
            super()._save_checkpoint(model, trial)
            write_json(written / self._unreadable_file, self.unreadable.state())
            # the seal covers every process's files, so all must have written theirs
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                publish(written, self.home)
        self.accelerator.wait_for_everyone()

    @property
    def _unreadable_file(self) -> str:
        """The file of this process's counts: each counts its own rows."""
        return f"unreadable_{self.args.process_index}.json"

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trainable parameters into a folder, that of the checkpoints by default. All processes call it."""
        parameters = self._trainable
        with whole(parameters):
            if self.args.should_save:
                folder = Path(output_dir or self.home)
                folder.mkdir(parents=True, exist_ok=True)
                state = {name: parameter.detach().contiguous().cpu() for name, parameter in parameters.items()}
                save_file(state, folder / TRAINABLE_FILE)

    @property
    def _zero_optimizer(self) -> Any:
        """The optimiser of DeepSpeed's engine, which Trainer makes when it prepares the training."""
        engine: Any = self.deepspeed
        return engine.optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_deepspeed_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        # not DeepSpeed's own checkpoint, which holds each process's piece: a run may go on with other processes
        save_moments(self._trainable, self._zero_optimizer, Path(output_dir) / OPTIMIZER_FILE, self.args.should_save)
        if self.args.should_save and self.lr_scheduler is not None:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """Return what Trainer prepares. DeepSpeed's own checkpoints are pickles, with frozen weights: ours are read."""
        if not self.is_deepspeed_enabled or resume_from_checkpoint is None:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        folder = Path(resume_from_checkpoint)
        # weights before the engine is made, which copies them in float32; moments after it, which holds them
        self._load_from_checkpoint(resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        optimizer, schedule = self._zero_optimizer, self.lr_scheduler
        load_moments(self._trainable, optimizer, folder / OPTIMIZER_FILE)
        if schedule is not None:
            schedule.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))
            set_rates(schedule, optimizer.optimizer)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        read_weights(Path(resume_from_checkpoint), self._trainable)
        counts = Path(resume_from_checkpoint) / self._unreadable_file
        if counts.is_file():  # not in the best weights of a validation
            self.unreadable.restore(json.loads(counts.read_text()))

    def load_weights(self, folder: Path) -> None:
        """Give the model the weights that `save_model` wrote."""
        self._load_from_checkpoint(str(folder))

    def _run_epoch(self, model: Any, epoch: Any, *args: Any, **kwargs: Any) -> None:
        # accelerate does not tell the order its epoch where several processes share a batch
        self.order.set_epoch(epoch)
        examples: Any = self.train_dataset
        examples.epoch = epoch  # before the worker processes of the epoch are started
        if self.state.global_step >= self.state.max_steps:
            # a run that goes on from its last step: Trainer would take one more before it looks
            self.control.should_training_stop = True
        else:
            super()._run_epoch(model, epoch, *args, **kwargs)


def read_weights(folder: Path, wanted: dict[str, nn.Parameter]) -> None:
    """Give parameters the values that a checkpoint, or the best weights, hold. Raise ModelError for other ones."""
    path = folder / TRAINABLE_FILE
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:  # of the best weights, which have no seal
        raise ModelError(f"{path} is damaged ({reason(error)}); remove {path.parent.parent}") from error
    if weights.keys() != wanted.keys():
        raise ModelError(f"{folder} was made with other LoRA settings; start a new output folder")
    for name, parameter in wanted.items():
        parameter.data.copy_(weights[name])
