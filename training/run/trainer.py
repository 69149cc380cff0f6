"""transformers' Trainer with few overrides: the loss, the sampler, and what a checkpoint holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers.trainer import SCHEDULER_NAME

from mllm_embed.errors import ModelError, reason
from mllm_embed.files import check_space, write_json

from ..batch.collator import ContrastiveBatch
from ..batch.stage_data import RowOrder
from ..data.unreadable import UnreadableLog
from ..distill.bank import Bank
from ..distributed.gathering import GatheredBatch, gather
from ..distributed.term_loss import term_loss
from ..distributed.zero import OPTIMIZER_FILE, load_moments, save_moments, whole
from ..false_negatives.guide import Guided, GuideRule
from ..false_negatives.known import ASKED, RIGHT, KnownAnswers
from ..loss.losses import LossOptions, LossOutput, contrast_bank, distil, nested
from ..loss.tiled import Pairs
from ..recipe.stage import Stage
from ..recipe.stage_keys.terms import Term
from .checkpoints import ASIDE, checkpoint_bytes, checkpoint_name, failing_disk, publish
from .divergence import DivergenceGuard
from .optimizer import StageOptimizer, scheduler, set_rates
from .run_folder import RUN_FILE
from .stopping import Stopping
from .throughput import Throughput, mean_cosine

TRAINABLE_FILE = "trainable.safetensors"


class ContrastiveTrainer(StageOptimizer):
    """A Trainer of a BatchEncoder, with the terms of one stage over the rows of all processes.

    A checkpoint holds the trainable parameters alone, beside Trainer's own optimiser, scheduler and random states.
    """

    def __init__(
        self,
        *args: Any,
        stage: Stage,
        home: Path,
        order: RowOrder,
        banks: dict[str, Bank],
        known: KnownAnswers | None,
        unreadable: UnreadableLog,
        stopping: Stopping,
        guide_banks: dict[str, Tensor],
        **kwargs: Any,
    ):
        """Set the stage beside what Trainer takes.

        Args:
            stage: whose terms are trained.
            home: the stage's folder of checkpoints.
            order: gives the rows' numbers.
            banks: the candidates of terms, by the term's name.
            known: what is right for whom in all rows of the stage; None where the rows of a batch tell it.
            unreadable: counts the rows that could not be read.
            stopping: is told of the wait for rows; it is no callback by that alone.
            guide_banks: the guide's vectors [M, Dg] of the banks' candidates, by the term's name; none without one.
        """
        super().__init__(*args, **kwargs)
        self.stage, self.home, self.order, self.unreadable, self.stopping = stage, home, order, unreadable, stopping
        self.parts = (self.args.max_steps - sum(stage.more_steps), *stage.more_steps)
        self.banks = {name: bank.to(self.args.device) for name, bank in banks.items()}
        self.guide_banks = {name: found.to(self.args.device) for name, found in guide_banks.items()}
        self.rule = GuideRule(stage.guide.margin, stage.guide.ceiling) if stage.guide else None
        self.known = known
        # the loss is a mean over a step's rows, which Trainer has to divide by the steps that it accumulates
        self.model_accepts_loss_kwargs = False
        self.throughput, self.divergence = Throughput(self.args.device), DivergenceGuard(stage, home)
        self.add_callback(self.throughput)
        self.add_callback(self.divergence)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a batch, a scalar. Raise the error that a worker handed on in a batch's place."""
        if "error" in inputs:
            raise inputs["error"]
        batch: ContrastiveBatch = inputs["batch"]
        self._count_unreadable(batch)
        vectors, temperature = model(batch)
        options = LossOptions(temperature.to(vectors.device), self.stage.mask_margin, self.stage.hardness)
        gathered = gather(vectors, batch, self.args.per_device_train_batch_size)
        losses = [(term, self._loss(term, gathered, batch, options)) for term in self.stage.terms]
        weighted = [term.weight * loss for term, loss in losses]
        total = sum(weighted[1:], weighted[0])
        trained = torch.cat([places for use, places in gathered.places.items() if not use.frozen]).unique()
        cosine = mean_cosine(gathered.vectors[trained])
        self.throughput.add_batch(batch)
        self.throughput.add_value("temperature", temperature)
        self.throughput.add_value("mean_cosine", cosine)
        if batch.guide is not None:
            self.throughput.add_value("unguided", batch.guide[:, 0].isnan().float().mean())
        self.divergence.check_step(model, losses, total, cosine, gathered, batch)
        return (total, vectors) if return_outputs else total

    def _count_unreadable(self, batch: ContrastiveBatch) -> None:
        for row in batch.unreadable:
            self.unreadable.add(*row)
        self.throughput.unreadable = self.unreadable.met  # which a run that goes on remembers
        self.unreadable.count(self.args.per_device_train_batch_size)

    def _loss(self, term: Term, gathered: GatheredBatch, batch: ContrastiveBatch, options: LossOptions) -> Tensor:
        """Return the loss of one term, the mean over the stage's nested dimensions."""
        whole_dim = gathered.vectors.shape[1]
        losses = []
        for dim, vectors in nested(gathered.vectors, self.stage.matryoshka).items():
            cut = replace(gathered, vectors=vectors)
            if term.uses_bank:
                output = self._bank_loss(term, cut, batch, options)
            else:
                output = term_loss(term, cut, options, self.rule, self._right_for(term, cut, batch))
            losses.append(output.loss)
            self._add_figures(term, "" if dim == whole_dim else f"@{dim}", output)
        mean = torch.stack(losses).mean()
        self.throughput.add_value(f"loss/{term.name}", mean)
        if not term.uses_bank:
            targets = torch.cat([gathered.places[use] for use in term.positives])
            repeated = mean.new_tensor(1 - len(targets.unique()) / len(targets))
            self.throughput.add_value(f"repeated/{term.name}", repeated)
        return mean

    def _bank_loss(
        self, term: Term, gathered: GatheredBatch, batch: ContrastiveBatch, options: LossOptions
    ) -> LossOutput:
        vectors = gathered.vectors
        bank = self.banks[term.name].cut(vectors.shape[1])
        # the candidates are no vectors of the batch, so a process needs nothing but its own queries
        queries = vectors[gathered.places[term.queries[0]][gathered.local_rows]]
        asks, answers = (batch.keys[role].to(vectors.device) for role in (term.query[0], term.positive[0]))
        rows = bank.rows(answers)
        if term.taught:
            return distil(queries, bank.teacher_vectors(asks), bank.vectors, rows, options.temperature)
        right = self._right_for(term, gathered, batch) or (asks, answers)
        guided, spared = self._guided_bank(term, gathered, batch, rows)
        return contrast_bank(queries, asks, bank.vectors, bank.inputs, rows, right, options, guided, spared)

    def _guided_bank(
        self, term: Term, gathered: GatheredBatch, batch: ContrastiveBatch, positives: Tensor
    ) -> tuple[Guided | None, Pairs | None]:
        """Return what the guide says of this process's queries and a bank, and the pairs that it does not concern."""
        if self.rule is None or gathered.guide is None:
            return None, None
        asking = gathered.guide[gathered.guide_places[term.queries[0]][gathered.local_rows]]
        candidates, bank = self.guide_banks[term.name], self.banks[term.name]
        keys = [batch.keys[role].to(asking.device) for role in term.fixed_negatives]
        found = [bank.found(own) for own in keys]
        none = positives[:0], positives[:0]
        rows, columns = (torch.cat(side) for side in zip(none, *found, strict=True))
        return Guided.of(asking, candidates, candidates[positives], self.rule), Pairs(rows, columns)

    def _right_for(self, term: Term, gathered: GatheredBatch, batch: ContrastiveBatch) -> tuple[Tensor, Tensor] | None:
        """Return by keys, [P] and [P] int64, what asks in this process's rows and all that is right for it; None where
        the roles of a batch's rows tell it."""
        asked, answers = (gathered.keys.get(name, gathered.inputs[:0]) for name in (ASKED, RIGHT))
        if self.known is None:
            return (asked, answers) if len(asked) else None
        asking = {*term.query, *(term.positive if term.symmetric else ())}
        keys = torch.cat([batch.keys[role] for role in sorted(asking)])
        known = (torch.from_numpy(part).to(self.args.device) for part in self.known.of(keys.cpu().numpy()))
        # what the rows tell stands among it, but for sources that were not looked at
        asked, answers = (torch.cat(parts) for parts in zip(known, (asked, answers), strict=True))
        return asked, answers

    def _add_figures(self, term: Term, cut: str, output: LossOutput) -> None:
        names = ["accuracy"] if cut else ["accuracy", "positive", "hardest", "negatives", "left_out"]
        if not cut and self.stage.mask_margin is not None:
            names.append("masked")
        if not cut and self.stage.guide is not None:
            names.append("guided")
        figures = output._asdict()
        for name in names:
            self.throughput.add_value(f"{name}/{term.name}{cut}", figures[name])

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
        self.divergence.check_gradient(norm)
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
