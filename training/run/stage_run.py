"""One stage of a run: rows, order, encoder and trainer put together."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PrinterCallback, TrainingArguments

from mllm_embed import MLLMEmbedder
from mllm_embed.data.folder import FolderBenchmark
from mllm_embed.errors import DataError, MLLMEmbedError
from mllm_embed.files import read_json, write_json
from mllm_embed.saving.model_card import ModelCardInfo
from mllm_embed.types import Item

from ..batch.collator import ContrastiveCollator
from ..batch.examples import Examples, PreparedInput, Reader
from ..batch.handover import Handover, room_for
from ..batch.progress import Progress
from ..batch.stage_data import RowOrder, StageRows, order_of, untold
from ..data.unreadable import UNREADABLE_FILE, UnreadableLog
from ..distill.again import MiningAgain, MiningStop
from ..distill.bank import Bank, make_bank, read_bank
from ..distill.guide import guide_banks, guided_rows, stage_guide
from ..distill.right_answers import RIGHT_FILE, RightAnswers, right_answers
from ..distill.teacher import Teacher
from ..distributed.chunking import find_chunk_tokens
from ..distributed.gathering import agreed, world
from ..distributed.gradient_caching import BatchEncoder
from ..distributed.zero import whole
from ..false_negatives.guide import GuideVectors
from ..false_negatives.keys import asked_by
from ..false_negatives.known import Relations
from ..loss.temperature import Temperature
from ..recipe.checks import first_process, processes
from ..recipe.config import Recipe
from ..recipe.optimizers import OPTIMIZERS
from ..recipe.stage import Stage
from ..report.board import Board, untold_in_threads
from ..report.run_log import LOG_FILE, Console, JsonLog
from .advice import Advice
from .checkpoints import checkpoint_name, last_checkpoint, step_of
from .optimizer import PartEnds
from .run_folder import check_stage_space
from .stopping import Stopping
from .trainer import ContrastiveTrainer, read_weights
from .validation import Validation, gallery_vectors
from .waiting import RowsWait

PROBED_ROWS = 8  # for their longest input


@dataclass
class StageRun:
    """The training of one stage, which leaves its adapter in the run's folder.

    Args:
        recipe: the run's.
        name: of the stage.
        rows: the stage's.
        benchmark: to validate with, if the stage does.
        embedder: the model with the adapter that is trained.
        bf16: train under bfloat16 autocast.
        seed: of order and dropout; each stage has its own.
        zero: DeepSpeed's config, None without.
        teacher: whose vectors are distilled, if any.
    """

    recipe: Recipe
    name: str
    rows: StageRows
    benchmark: FolderBenchmark | None
    embedder: MLLMEmbedder
    bf16: bool
    seed: int
    zero: dict[str, Any] | None
    teacher: Teacher | None = None

    @property
    def stage(self) -> Stage:
        """The recipe's stage."""
        return self.recipe.stages[self.name]

    @property
    def home(self) -> Path:
        """The folder of its checkpoints."""
        return self.recipe.checkpoints_of(self.name)

    def train(self, card: Callable[[], ModelCardInfo], stopping: Stopping) -> None:
        """Train from the last checkpoint on, where there is one, and save the adapter with what `card` then says.

        Raise ModelError where the training goes wrong, Stopped where it was asked to end.
        """
        again = None
        if self.stage.mine:
            again = MiningAgain(
                self.name, self.stage, self.rows, self._order(), self.embedder, self.bf16, self.home, self.seed
            )
        trainer, validation = self._stretch(stopping, again)
        while again and again.due(trainer.state.global_step) and trainer.state.global_step < trainer.state.max_steps:
            stopping.check()
            trainer, validation = self._stretch(stopping, again)
        if trainer.state.global_step < trainer.state.max_steps:
            stopping.check()  # where no checkpoint was written, since the vectors look collapsed
        summary = trainer.unreadable.close()
        if summary:
            tqdm.write(f"{self.name}  {summary}")
        if validation:
            validation.take_best()
        self._save(card)
        trainer.accelerator.wait_for_everyone()

    def _stretch(self, stopping: Stopping, again: MiningAgain | None) -> tuple[ContrastiveTrainer, Validation | None]:
        """Train from the last checkpoint on to the end, or until the model mines anew: as a run that was stopped."""
        if again:
            self._take_negatives(again)
        trainer = self._trainer(stopping)
        validation = self._validation(trainer)
        if again:
            trainer.add_callback(MiningStop(again, trainer))  # after the guard, which may hold a checkpoint back
        if self.teacher:
            self.teacher.unload()
        step = agreed(self._last_step, self.embedder.device)
        checkpoint = checkpoint_name(step) if step else None
        if first_process() and not (again and again.stretches > 1):
            self._print_start(checkpoint)
        stopping.rows = self._rows_wait if self.recipe.workers else None
        with self._rows_wait.told(), untold_in_threads():
            trainer.train(resume_from_checkpoint=str(self.home / checkpoint) if checkpoint else None)
        return trainer, validation

    def _take_negatives(self, again: MiningAgain) -> None:
        """Let the rows have the hard negatives that the model finds with the weights of the last checkpoint."""
        self.__dict__.pop("encoder", None)  # a new one goes into each stretch, as into a run that was stopped
        self._arguments(1)  # makes the processes known to one another
        step = agreed(self._last_step, self.embedder.device)
        if step:
            read_weights(self.home / checkpoint_name(step), self.encoder.trainable())
        again.take(step)

    def _validation(self, trainer: ContrastiveTrainer) -> Validation | None:
        """Return the stage's validation, which `trainer` then calls; None for a stage without."""
        if self.benchmark is None or self.stage.evaluate is None:
            return None
        gallery = None
        if self.teacher:
            gallery = gallery_vectors(self.teacher.embedder(), self.benchmark, self.bf16, self.stage.tasks[1])
        validation = Validation(
            self.benchmark, self.stage.evaluate.every, self.embedder, trainer, self.bf16, gallery, self.stage.tasks
        )
        trainer.add_callback(validation)
        return validation

    def _save(self, card: Callable[[], ModelCardInfo]) -> None:
        with whole(self.encoder.trainable()):
            if first_process():
                self.embedder.settings = replace(self.embedder.settings, matryoshka=tuple(self.stage.matryoshka))
                self.embedder.save_pretrained(self.recipe.output / self.name, card=card())

    def _last_step(self) -> int:
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
    def _rows_wait(self) -> RowsWait:
        """The wait for rows that worker processes make."""
        return RowsWait(Progress(self.recipe.workers), self.rows.name, self.home)

    @cached_property
    def encoder(self) -> BatchEncoder:
        """The embedder's model with the temperature, as Trainer trains it."""
        bounds = self.stage.learn_temperature
        temperature = Temperature(self.stage.temperature, (bounds[0], bounds[1]) if bounds else None)
        aligned = bool(self.zero)  # accelerate's autocast does not reach into DeepSpeed's engine
        return BatchEncoder(self.embedder.model, temperature, aligned=aligned, bf16=self.bf16 and aligned)

    def _trainer(self, stopping: Stopping) -> ContrastiveTrainer:
        stage, output = self.stage, self.recipe.output
        if self.recipe.gradient_checkpointing:
            self.embedder.model.gradient_checkpointing_enable()
        order = self._order()
        parts = self._parts(order)
        arguments = self._arguments(sum(parts))
        check_stage_space(self.recipe, self.name, self.encoder.trainable().values())
        right, log = self._right_answers, JsonLog(output / LOG_FILE, self.name)
        banks = self._banks()
        guide = self._guide(stopping, arguments)
        progress = self._rows_wait.progress
        examples = Examples(self.rows, self._reader(banks), self.seed, progress)
        self._check_shared_memory(examples)
        collate = ContrastiveCollator(self.embedder.item_processor, stage.uses, self._chunk_tokens(examples), guide)
        rank, _ = world()
        unreadable = output / (UNREADABLE_FILE if rank == 0 else UNREADABLE_FILE.replace(".", f"-{rank}."))
        trainer = ContrastiveTrainer(
            model=self.encoder, args=arguments, train_dataset=examples, stage=stage, home=self.home, banks=banks,
            known=right.known, order=order,
            data_collator=Handover(collate, progress), stopping=stopping,
            guide_banks=guide_banks(guide, banks, stage, self.rows, right.key),
            unreadable=UnreadableLog(unreadable, len(self.rows) // processes(), stage.max_unreadable),
            callbacks=[
                PartEnds(parts), Board(), log, Console(self.name), Advice(stage, self.rows.sample(), banks, log),
                stopping,
            ],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _reader(self, banks: dict[str, Bank]) -> Reader:
        stage, process = self.stage, self.embedder.item_processor
        # a row whose answer, or whose query that is taught, could not be read for the bank cannot be trained on
        held = [(term.positive[0], banks[term.name].inputs.numpy()) for term in stage.terms if term.uses_bank]
        held += [(term.query[0], banks[term.name].asks.numpy()) for term in stage.terms if term.taught]
        right = self._right_answers
        keyed = list(dict.fromkeys([*stage.keyed, *stage.encoded]))
        return Reader(
            process.prepared, stage.encoded, keyed, stage.hard_negatives, held, right.key.asked, bool(stage.guide),
            right.key, Relations.of(stage.terms),
        )  # fmt: skip

    @cached_property
    def _right_answers(self) -> RightAnswers:
        """What is known of right answers from all rows of the stage."""
        asked = asked_by(self.embedder.prompts)
        return right_answers(self.name, self.stage, self.rows, asked, self.home / RIGHT_FILE, self.embedder.device)

    def _parts(self, order: RowOrder) -> tuple[int, ...]:
        """Return the steps of each part of the stage; incomplete batches of an epoch are dropped."""
        stage = self.stage
        first = stage.steps or math.ceil(stage.epochs * (len(order) // stage.batch_size))
        return (first, *stage.more_steps)

    def _arguments(self, steps: int) -> TrainingArguments:
        stage = self.stage
        arguments = TrainingArguments(
            output_dir=str(self.home), seed=self.seed, bf16=self.bf16 and not self.zero, deepspeed=self.zero,
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

    def _chunk_tokens(self, examples: Examples) -> int:
        if self.stage.chunk_tokens != "auto":
            return self.stage.chunk_tokens
        path = self.home / f"chunk_tokens_{world()[0]}.json"
        if path.is_file():  # what a GPU shows depends on what ran before; a run that goes on cuts as it did
            kept = read_json(path, f"remove {path}")
            if type(kept) is not int or kept < 1:
                raise DataError(f"{path} is damaged: it holds no number of tokens; remove {path}")
            return kept
        longest = self._longest_input(examples)
        one, two = (self.embedder.item_processor([longest] * count) for count in (1, 2))
        tokens = find_chunk_tokens(self.encoder, one, two, self.bf16, self.stage.optimizer)
        write_json(path, tokens)
        return tokens

    def _check_shared_memory(self, examples: Examples) -> None:
        """Warn of too little room for what worker processes hand over. Raise ConfigError where they cannot start."""
        rows = len(self.stage.uses) * self.stage.batch_size // processes()
        process, workers = self.embedder.item_processor, self.recipe.workers
        sentence = room_for(workers, lambda: process([self._longest_input(examples)]), rows)
        if sentence and first_process():
            tqdm.write(f"warning: stage '{self.name}': {sentence}", file=sys.stderr)

    def _longest_input(self, examples: Examples) -> Item:
        """Return the longest of what some rows from everywhere give to train on."""
        probed = Examples(self.rows, examples.read, self.seed)  # workers are forked from examples that none has touched
        trained = [use.role for use in self.stage.uses if not use.frozen]
        inputs: list[PreparedInput] = []
        for place in sorted({round(place) for place in np.linspace(0, len(probed) - 1, PROBED_ROWS)}):
            example = probed[place]
            if isinstance(example, MLLMEmbedError):
                raise example
            for role in trained:
                inputs += example.roles[role]
        return max(inputs, key=lambda prepared: prepared.tokens).item

    def _order(self) -> RowOrder:
        """Return the order of the rows. Raise DataError where the sources give no whole batch an epoch."""
        order = order_of(self.stage, self.rows, self.seed, processes())
        if len(order) < self.stage.batch_size:
            raise DataError(
                f"stage '{self.name}': an epoch of {self.stage.where} has {len(order):,} rows, fewer than batch_size "
                f"{self.stage.batch_size}: sources leave out what fills no chunk; lower batch_size or per_source"
            )
        return order

    def _guide(self, stopping: Stopping, arguments: TrainingArguments) -> GuideVectors | None:
        if self.stage.guide is None:
            return None
        rows, order = replace(self.rows, again=None), self._order()
        return stage_guide(
            self.recipe, self.name, rows, guided_rows(self.stage, order, sum(self._parts(order)), len(rows)), self.bf16,
            self.embedder.device, arguments.hf_deepspeed_config if self.zero else None, stopping.check,
        )  # fmt: skip

    def _banks(self) -> dict[str, Bank]:
        banks = {}
        for number, term in enumerate(term for term in self.stage.terms if term.uses_bank):
            path = self.home / f"bank-{number}.safetensors"
            bank = read_bank(path, self.embedder.device)
            if bank is None:
                encoder = self.teacher.embedder() if term.taught and self.teacher else self.embedder
                bank = make_bank(self.stage, term, self.rows, encoder, self.bf16, path, self._right_answers.key)
            banks[term.name] = bank
        return banks
