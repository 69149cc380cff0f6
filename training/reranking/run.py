"""One stage of a re-ranker's run: rows, order, model and trainer put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from transformers import PrinterCallback

from mllm_embed.rerank.reranker import Reranker
from mllm_embed.rerank.shared_lists import Sharing
from mllm_embed.types import Item

from ..batch.examples import Example, Examples, PreparedInput, Reader
from ..batch.handover import Handover
from ..distributed.chunking import find_chunk_tokens
from ..recipe.checks import first_process
from ..recipe.reranker.recipe import RerankRecipe
from ..recipe.reranker.stage import RerankStage
from ..report.board import Board
from ..report.run_log import LOG_FILE, Console, JsonLog
from ..run.divergence import StepGuard
from ..run.optimizer import PartEnds
from ..run.run_folder import check_stage_space
from ..run.stage.base_run import BaseRun
from ..run.stopping import Stopping
from .batch import RerankCollator
from .scorer import BatchScorer
from .trainer import RerankTrainer


@dataclass
class RerankRun(BaseRun):
    """The training of one stage of a re-ranker, which leaves its adapter in the run's folder.

    Args:
        recipe, name, rows, bf16, seed: as of `BaseRun`.
        reranker: the model with the adapter that is trained.
    """

    recipe: RerankRecipe
    reranker: Reranker

    @property
    def stage(self) -> RerankStage:
        """The recipe's stage."""
        return self.recipe.stages[self.name]

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.reranker.device

    def train(self, stopping: Stopping) -> None:
        """Train from the last checkpoint on, where there is one, and save the adapter.

        Raise ModelError where the training goes wrong, Stopped where it was asked to end.
        """
        trainer = self._trainer(stopping)
        self.train_on(trainer, stopping)
        self.close(trainer)
        if first_process():
            self.reranker.save_pretrained(self.recipe.output / self.name)
        trainer.accelerator.wait_for_everyone()

    @cached_property
    def scorer(self) -> BatchScorer:
        """The re-ranker's model, as Trainer trains it."""
        return BatchScorer(self.reranker.model)

    def _trainer(self, stopping: Stopping) -> RerankTrainer:
        model, stage = self.reranker.model.model, self.stage
        if self.recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        order = self.order()
        parts = self.parts(order)
        arguments = self.arguments(sum(parts))
        check_stage_space(self.recipe, self.name, self.scorer.trainable().values())
        progress = self.rows_wait.progress
        reader = Reader(self._prepared, stage.roles, hard_negatives=stage.hard_negatives)
        examples = Examples(self.rows, reader, self.seed, progress)
        longest = partial(self._longest_pair, examples)
        self.check_shared_memory(lambda: self.reranker.pairs.batch([longest()]), stage.candidates)
        tokens = self.chunk_tokens(partial(self._find_chunk_tokens, longest))
        collate = RerankCollator(self.reranker.pairs, stage, self._sharing(), tokens, self.seed)
        trainer = RerankTrainer(
            model=self.scorer, args=arguments, train_dataset=examples, stage=stage, home=self.home, order=order,
            data_collator=Handover(collate, progress), collate=collate, stopping=stopping,
            guard=StepGuard(self.home), unreadable=self.unreadable(),
            callbacks=[PartEnds(parts), Board(), JsonLog(self.recipe.output / LOG_FILE, self.name),
                       Console(self.name), stopping],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _prepared(self, item: Item) -> tuple[Item, int]:
        """Return an item with its pictures decoded, and about how many tokens it takes; its task is the prompt's."""
        loaded, tokens = self.reranker.pairs.items.prepared(replace(item, task=None))
        return replace(loaded, task=item.task), tokens

    def _sharing(self) -> Sharing:
        """Return which lists are computed in two parts: none with gradient checkpointing, which keeps no keys."""
        return Sharing(False, False) if self.recipe.gradient_checkpointing else Sharing.of(self.reranker.model.model)

    def _find_chunk_tokens(self, longest: Callable[[], tuple[Item, Item]]) -> int:
        pair = longest()
        one, two = (self.reranker.pairs.batch([pair] * count) for count in (1, 2))
        return find_chunk_tokens(self.scorer, one, two, self.bf16, self.stage.optimizer)

    def _longest_pair(self, examples: Examples) -> tuple[Item, Item]:
        """Return the longest pair of some rows from everywhere."""
        found = [pair for example in self.probed(examples) for pair in _pairs(example, self.stage.roles)]
        query, candidate = max(found, key=lambda pair: pair[0].tokens + pair[1].tokens)
        return query.item, candidate.item


def _pairs(example: Example, roles: Sequence[str]) -> list[tuple[PreparedInput, PreparedInput]]:
    [query] = example.roles[roles[0]]
    return [(query, candidate) for role in roles[1:] for candidate in example.roles[role]]
