"""One stage of a run: rows, order, encoder and trainer put together."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from transformers import PrinterCallback, TrainingArguments

from mllm_embed import MLLMEmbedder
from mllm_embed.data.folder import FolderBenchmark
from mllm_embed.saving.model_card import ModelCardInfo
from mllm_embed.types import Item

from ..batch.collator import ContrastiveCollator
from ..batch.examples import Examples, PreparedInput, Reader
from ..batch.handover import Handover
from ..batch.stage_data import visited_rows
from ..batch.thoughts import TaughtThoughts
from ..distill.again import MiningAgain, MiningStop
from ..distill.bank import Bank, make_bank, read_bank
from ..distill.guide import guide_banks, guided_rows, stage_guide
from ..distill.judgements import Judgements, stage_judgements
from ..distill.right_answers import RIGHT_FILE, RightAnswers, right_answers
from ..distill.teacher import Teacher
from ..distill.tuned_codes import codes_of, gallery_space, learned_codes, leave_quantizer, stage_start, tuned
from ..distributed.chunking import find_chunk_tokens
from ..distributed.gathering import agreed
from ..distributed.gradient_caching import BatchEncoder
from ..distributed.zero import whole
from ..false_negatives.guide import GuideVectors
from ..false_negatives.keys import asked_by
from ..false_negatives.known import Relations
from ..loss.jpq import Codes
from ..loss.temperature import Temperature
from ..recipe.checks import first_process
from ..recipe.config import Recipe
from ..recipe.stage import Stage
from ..report.board import Board
from ..report.run_log import LOG_FILE, Console, JsonLog
from .advice import Advice
from .checkpoints import checkpoint_name
from .optimizer import PartEnds
from .run_folder import check_stage_space
from .stage.base_run import BaseRun
from .stage.stage_trainer import read_weights
from .stopping import Stopping
from .trainer import ContrastiveTrainer
from .validation import Validation, gallery_vectors


@dataclass
class StageRun(BaseRun):
    """The training of one contrastive stage, which leaves its adapter in the run's folder.

    Args:
        recipe, name, rows, bf16, seed: as of `BaseRun`.
        embedder: the model with the adapter that is trained.
        benchmark: to validate with, if the stage does.
        zero: DeepSpeed's config, None without.
        teacher: whose vectors are distilled, if any.
    """

    recipe: Recipe
    embedder: MLLMEmbedder
    benchmark: FolderBenchmark | None
    zero: dict[str, Any] | None
    teacher: Teacher | None = None

    @property
    def stage(self) -> Stage:
        """The recipe's stage."""
        return self.recipe.stages[self.name]

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.embedder.device

    @property
    def engine(self) -> dict[str, Any] | None:
        """DeepSpeed's config, None without."""
        return self.zero

    def train(self, card: Callable[[], ModelCardInfo], stopping: Stopping) -> None:
        """Train from the last checkpoint on, where there is one, and save the adapter with what `card` then says.

        Raise ModelError where the training goes wrong, Stopped where it was asked to end.
        """
        again = None
        if self.stage.mine:
            again = MiningAgain(
                self.name, self.stage, self.rows, self.order(), self.embedder, self.bf16, self.home, self.seed
            )
        trainer, validation = self._stretch(stopping, again)
        while again and again.due(trainer.state.global_step) and trainer.state.global_step < trainer.state.max_steps:
            stopping.check()
            trainer, validation = self._stretch(stopping, again)
        if trainer.state.global_step < trainer.state.max_steps:
            stopping.check()  # where no checkpoint was written, since the vectors look collapsed
        self.close(trainer)
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
        self.train_on(trainer, stopping, told=not (again and again.stretches > 1))
        return trainer, validation

    def _take_negatives(self, again: MiningAgain) -> None:
        """Let the rows have the hard negatives that the model finds with the weights of the last checkpoint."""
        self.__dict__.pop("encoder", None)  # a new one goes into each stretch, as into a run that was stopped
        self.arguments(1)  # makes the processes known to one another
        step = agreed(self.last_step, self.embedder.device)
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
        adapter = self.recipe.output / self.name
        with whole(self.encoder.trainable()):
            if first_process():
                settings = replace(self.embedder.settings, matryoshka=tuple(self.stage.matryoshka))
                if self.encoder.centroids is not None:
                    settings = replace(settings, target_space=tuned(self.home, self.encoder.centroids).provenance)
                self.embedder.settings = settings
                self.embedder.save_pretrained(adapter, card=card())
                leave_quantizer(self.home, adapter)

    @cached_property
    def encoder(self) -> BatchEncoder:
        """The embedder's model with the temperature, as Trainer trains it."""
        bounds = self.stage.learn_temperature
        temperature = Temperature(self.stage.temperature, (bounds[0], bounds[1]) if bounds else None)
        aligned = bool(self.zero)  # accelerate's autocast does not reach into DeepSpeed's engine
        learner, thoughts = self.recipe.token_learner, self.recipe.thoughts
        return BatchEncoder(
            self.embedder.model, temperature, aligned, self.bf16 and aligned, local=learner.local if learner else 0.0,
            thoughts=thoughts.weight if thoughts else 0.0, words=self._asked_tokens,
        )  # fmt: skip

    @property
    def _asked_tokens(self) -> int:
        """How many tokens of an input give its lexical vector; 0 where none is trained."""
        lexical = self.embedder.settings.lexical if self.recipe.lexical else None
        return lexical.tokens if lexical else 0

    def _trainer(self, stopping: Stopping) -> ContrastiveTrainer:
        stage, output = self.stage, self.recipe.output
        if self.recipe.gradient_checkpointing:
            self.embedder.model.gradient_checkpointing_enable()
        order = self.order()
        parts = self.parts(order)
        arguments = self.arguments(sum(parts))
        check_stage_space(self.recipe, self.name, self.encoder.trainable().values())
        right, log = self._right_answers, JsonLog(output / LOG_FILE, self.name)
        banks = self._banks()
        codes = self._codes(banks)
        guide = self._guide(stopping, arguments)
        progress = self.rows_wait.progress
        examples = Examples(self.rows, self._reader(banks), self.seed, progress)
        self.check_shared_memory(lambda: self._collator.chunk([self._longest_input(examples)]), len(stage.uses))
        tokens = self.chunk_tokens(partial(self._find_chunk_tokens, examples))
        collate = replace(self._collator, chunk_tokens=tokens, guide=guide)
        trainer = ContrastiveTrainer(
            model=self.encoder, args=arguments, train_dataset=examples, stage=stage, home=self.home, banks=banks,
            known=right.known, order=order,
            data_collator=Handover(collate, progress), stopping=stopping,
            guide_banks=guide_banks(guide, banks, stage, self.rows, right.key),
            judgements=self._judgements(stopping, arguments), lexical=self.recipe.lexical,
            codes=codes,
            unreadable=self.unreadable(),
            callbacks=[
                PartEnds(parts), Board(), log, Console(self.name), Advice(stage, self.rows.sample(), banks, log),
                stopping,
            ],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _prepared(self, item: Item) -> tuple[Item, int]:
        """Return what the processor prepares, with room for the thought of a query that is taught one."""
        room = self._thoughts.writer.room(item) if self._thoughts else 0
        return self.embedder.item_processor.prepared(item, room)

    def _reader(self, banks: dict[str, Bank]) -> Reader:
        stage = self.stage
        # a row whose answer, or whose query that is taught, could not be read for the bank cannot be trained on
        held = [(term.positive[0], banks[term.name].inputs.numpy()) for term in stage.terms if term.uses_bank]
        held += [(term.query[0], banks[term.name].asks.numpy()) for term in stage.terms if term.taught]
        right = self._right_answers
        keyed = list(dict.fromkeys([*stage.keyed, *stage.encoded]))
        return Reader(
            self._prepared, stage.encoded, keyed, stage.hard_negatives, held, right.key.asked, bool(stage.guide),
            right.key, Relations.of(stage.terms), self._thoughts.of if self._thoughts else None,
        )  # fmt: skip

    @cached_property
    def _thoughts(self) -> TaughtThoughts | None:
        """The thoughts that queries are taught, if any."""
        section, thinking = self.recipe.thoughts, self.embedder.thinking
        return TaughtThoughts(thinking.writer, section.dropped) if section and thinking else None

    @property
    def _collator(self) -> ContrastiveCollator:
        """What makes batches, without a limit of chunks."""
        return ContrastiveCollator(self.embedder.item_processor, self.stage.uses, sys.maxsize, thoughts=self._thoughts)

    @cached_property
    def _right_answers(self) -> RightAnswers:
        """What is known of right answers from all rows of the stage."""
        asked = asked_by(self.embedder.prompts)
        return right_answers(self.name, self.stage, self.rows, asked, self.home / RIGHT_FILE, self.embedder.device)

    def _find_chunk_tokens(self, examples: Examples) -> int:
        longest = self._longest_input(examples)
        one, two = (self._collator.chunk([longest] * count) for count in (1, 2))
        return find_chunk_tokens(self.encoder, one, two, self.bf16, self.stage.optimizer)

    def _longest_input(self, examples: Examples) -> PreparedInput:
        """Return the longest of what some rows from everywhere give to train on."""
        trained = [use.role for use in self.stage.uses if not use.frozen]
        inputs = [one for example in self.probed(examples) for role in trained for one in example.roles[role]]
        return max(inputs, key=lambda prepared: prepared.tokens)

    def _judgements(self, stopping: Stopping, arguments: TrainingArguments) -> Judgements | None:
        if self.stage.judge is None:
            return None
        order = self.order()
        visited = visited_rows(order, self.stage.batch_size, sum(self.parts(order)), len(self.rows))
        return stage_judgements(
            self.recipe, self.name, self.rows, visited, self._right_answers.key, self.bf16, self.embedder.device,
            arguments.hf_deepspeed_config if self.zero else None, stopping.check,
        )  # fmt: skip

    def _guide(self, stopping: Stopping, arguments: TrainingArguments) -> GuideVectors | None:
        if self.stage.guide is None:
            return None
        rows, order = replace(self.rows, again=None), self.order()
        return stage_guide(
            self.recipe, self.name, rows, guided_rows(self.stage, order, sum(self.parts(order)), len(rows)), self.bf16,
            self.embedder.device, arguments.hf_deepspeed_config if self.zero else None, stopping.check,
        )  # fmt: skip

    def _codes(self, banks: dict[str, Bank]) -> Codes | None:
        """Return the codes of the bank whose queries are tuned with them, and let the encoder train the centroids."""
        if self.stage.jpq is None:
            return None
        (bank,) = banks.values()
        space = gallery_space(self.embedder, stage_start(self.recipe, self.name))
        quantizer = learned_codes(bank, self.stage.jpq.bytes, space, self.home, self.device)
        self.encoder.tune(torch.from_numpy(quantizer.coded))
        return codes_of(quantizer, bank, self.device)

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
