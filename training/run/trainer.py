"""transformers' Trainer with few overrides: the loss, the sampler, and what a checkpoint holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME

from mllm_embed.errors import ModelError
from mllm_embed.files import check_space, write_json

from ..batch.collator import ContrastiveBatch
from ..data.unreadable import UnreadableLog
from ..distill.bank import Bank
from ..distributed.gathering import GatheredBatch, gather
from ..distributed.zero import OPTIMIZER_FILE, load_moments, save_moments, whole
from ..loss.losses import Asked, Weighing, contrast, contrast_bank, distil, nested
from ..loss.tiled import Found
from ..recipe.config import Stage, Term
from .checkpoints import ASIDE, checkpoint_bytes, failing_disk, publish
from .divergence import DivergenceGuard
from .throughput import Throughput, mean_cosine

TRAINABLE_FILE = "trainable.safetensors"


class ContrastiveTrainer(Trainer):
    """Trains a BatchEncoder with the terms of one stage over the rows of all processes. Logs what each term found.

    A checkpoint holds the trainable parameters alone, beside Trainer's own optimiser, scheduler and random states.
    """

    def __init__(
        self,
        *args: Any,
        stage: Stage,
        order: Sampler[int],
        banks: dict[str, Bank],
        unreadable: UnreadableLog,
        **kwargs: Any,
    ):
        """`order` gives the rows' numbers, `banks` the candidates of terms by name; `unreadable` hears of lost rows."""
        super().__init__(*args, **kwargs)
        self.stage, self.order, self.unreadable = stage, order, unreadable
        self.banks = {name: bank.to(self.args.device) for name, bank in banks.items()}
        self.model_accepts_loss_kwargs = False
        self.meter, self.watch = Throughput(self.args.device), DivergenceGuard(stage, Path(self.args.output_dir))
        self.add_callback(self.meter)
        self.add_callback(self.watch)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        if "error" in inputs:
            raise inputs["error"]
        batch: ContrastiveBatch = inputs["batch"]
        for lost in batch.lost:
            self.unreadable.add(*lost)
        self.meter.unreadable = self.unreadable.met  # which a run that goes on remembers
        self.unreadable.count(self.args.per_device_train_batch_size)
        vectors, temperature = model(batch)
        weighing = Weighing(temperature.to(vectors.device), self.stage.mask_margin, self.stage.hardness)
        pool = gather(vectors, batch, self.args.per_device_train_batch_size)
        losses = [(term, self._loss(term, pool, batch, weighing)) for term in self.stage.terms]
        total = sum(term.weight * loss for term, loss in losses)
        trained = torch.cat([place for use, place in pool.places.items() if not use.frozen]).unique()
        cosine = mean_cosine(pool.vectors[trained])
        self.meter.saw(batch)
        self.meter.note("temperature", temperature)
        self.meter.note("mean_cosine", cosine)
        self.watch.look(model, losses, total, cosine, pool, batch)
        return (total, vectors) if return_outputs else total

    def _loss(self, term: Term, pool: GatheredBatch, batch: ContrastiveBatch, weighing: Weighing) -> Tensor:
        """The loss of one term, the mean over the stage's nested dimensions."""
        losses = []
        for dim, cut in nested(pool.vectors, self.stage.matryoshka).items():
            found = (
                self._banked(term, cut, pool, batch, weighing)
                if term.kept
                else term_loss(term, replace(pool, vectors=cut), weighing)
            )
            losses.append(found.loss)
            self._note_all(term, "" if dim == pool.vectors.shape[1] else f"@{dim}", found)
        mean = torch.stack(losses).mean()
        self.meter.note(f"loss/{term.name}", mean)
        if not term.kept:
            asked = torch.cat([pool.places[use] for use in term.positives])
            self.meter.note(f"repeated/{term.name}", mean.new_tensor(1 - len(asked.unique()) / len(asked)))
        return mean

    def _banked(
        self, term: Term, vectors: Tensor, pool: GatheredBatch, batch: ContrastiveBatch, weighing: Weighing
    ) -> Found:
        bank = self.banks[term.name].cut(vectors.shape[1])
        query = pool.places[term.queries[0]][pool.mine]
        asks, answers = (batch.keys[role].to(vectors.device) for role in (term.query[0], term.positive[0]))
        if term.taught:
            return distil(vectors[query], bank.lesson(asks), bank.vectors, bank.places(answers), weighing.temperature)
        return contrast_bank(
            vectors[query], asks, bank.vectors, bank.inputs, bank.places(answers), (bank.asked, bank.answers), weighing
        )

    def _note_all(self, term: Term, cut: str, found: Found) -> None:
        for name in ("accuracy",) if cut else ("accuracy", "positive", "hardest", "negatives", "masked"):
            if name != "masked" or self.stage.mask_margin is not None:
                self.meter.note(f"{name}/{term.name}{cut}", getattr(found, name))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= self.meter.figures()
        if "train_runtime" not in logs:  # Trainer's closing line says nothing that the others do not
            super().log(logs, *args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        self.meter.starts()
        found = super().get_batch_samples(*args, **kwargs)
        self.meter.has_rows()
        return found

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        self.watch.gradient(norm)
        return norm

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.order

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return [name for name in super().get_decay_parameter_names(model) if "temperature" not in name.split(".")]

    # ---- checkpoints: written aside and sealed; under ZeRO whole tensors of what it cut

    @property
    def _trainable(self) -> dict[str, nn.Parameter]:
        return self.accelerator.unwrap_model(self.model).trainable()

    def _get_output_dir(self, trial: Any) -> str:
        return str(Path(self.args.output_dir) / ASIDE)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        home = Path(self.args.output_dir)
        written = home / ASIDE / f"checkpoint-{self.state.global_step}"
        check_space(home, checkpoint_bytes(self._trainable.values()), "a checkpoint")
        with failing_disk(written):
            super()._save_checkpoint(model, trial)
            write_json(written / self._unreadable_file, self.unreadable.state())
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                publish(written, home)
        self.accelerator.wait_for_everyone()

    @property
    def _unreadable_file(self) -> str:
        """Each process counts its own rows."""
        return f"unreadable_{self.args.process_index}.json"

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        parameters = self._trainable
        with whole(parameters):
            if self.args.should_save:
                folder = Path(output_dir or self.args.output_dir)
                folder.mkdir(parents=True, exist_ok=True)
                state = {name: parameter.detach().contiguous().cpu() for name, parameter in parameters.items()}
                save_file(state, folder / TRAINABLE_FILE)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_deepspeed_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        save_moments(
            self._trainable, self.deepspeed.optimizer, Path(output_dir) / OPTIMIZER_FILE, self.args.should_save
        )
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """DeepSpeed's own checkpoints are pickles, and hold the frozen weights too: ours are read here."""
        if not self.is_deepspeed_enabled or resume_from_checkpoint is None:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        folder = Path(resume_from_checkpoint)
        self._load_from_checkpoint(resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        load_moments(self._trainable, self.deepspeed.optimizer, folder / OPTIMIZER_FILE)
        self.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))
        groups = self.deepspeed.optimizer.optimizer.param_groups
        for group, rate in zip(groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate  # which a scheduler only sets when it steps
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        weights, wanted = load_file(Path(resume_from_checkpoint) / TRAINABLE_FILE), self._trainable
        if weights.keys() != wanted.keys():
            raise ModelError(f"{resume_from_checkpoint} was made with other LoRA settings; start a new output folder")
        for name, parameter in wanted.items():
            parameter.data.copy_(weights[name])
        counts = Path(resume_from_checkpoint) / self._unreadable_file
        if counts.is_file():  # not in the best weights of a validation
            self.unreadable.restore(json.loads(counts.read_text()))

    def _run_epoch(self, epoch: int, **kwargs: Any) -> None:
        """Tells the order its epoch, which accelerate does not where several processes share a batch; and stops a run
        that goes on from its last step, where Trainer would take one more before it looks."""
        self.order.set_epoch(epoch)
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(epoch=epoch, **kwargs)


def term_loss(term: Term, pool: GatheredBatch, weighing: Weighing) -> Found:
    """The InfoNCE of a term over the rows of all processes, of which this one computes its own.

    Several queries of a term are so many times the rows, which share one softmax.
    """
    rows, times = pool.rows, len(term.queries)
    starts = torch.arange(times, device=pool.vectors.device)[:, None] * rows
    negatives = torch.cat([pool.places[use] for use in term.others] or [pool.inputs[:0]])
    owners = torch.cat([pool.owners_of(use) for use in term.others] or [pool.inputs[:0]])
    asked = Asked(
        query=torch.cat([pool.places[use] for use in term.queries]),
        positive=torch.cat([pool.places[use] for use in term.positives]),
        negatives=negatives.repeat(times),
        owners=(owners + starts).flatten(),
        mine=(pool.mine + starts).flatten(),
    )
    return contrast(pool.vectors, asked, weighing, term.symmetric, term.same_side, pool.inputs)
