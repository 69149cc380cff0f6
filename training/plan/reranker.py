"""A recipe of a re-ranker as its plan sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mllm_embed.model.embedding_model import EmbeddingModel
from mllm_embed.model.lora import ADAPTER_CONFIG
from mllm_embed.saving.base_lookup import base_of

from ..batch.stage_data import StageRows, open_stage
from ..recipe.pixels import limited
from ..recipe.reranker.recipe import RerankRecipe
from ..recipe.reranker.start import RerankStart, start_from, start_unseen
from ..recipe.reranker.term import PAIRED
from ..recipe.start import start_of
from .inputs import InputMaker, MicroBatch
from .model import Counts, build, find_config, locate
from .pairs import PairMaker
from .planned import PlannedRecipe


@dataclass(frozen=True)
class PlannedReranker(PlannedRecipe):
    """That of a re-ranker.

    Args:
        recipe, source, config, found_in: as of `PlannedRecipe`.
        pairs: what its model gets of a stage's rows, by the prompt and limits with which a run loads it.
    """

    recipe: RerankRecipe
    pairs: PairMaker

    @classmethod
    def of(cls, recipe: RerankRecipe) -> PlannedReranker:
        """Return that of a recipe. Raise ModelError for a model of unknown shape, ConfigError for a prompt that its
        terms cannot be asked with and as `InputMaker.of`, and both as `start_from`."""
        start = _start(recipe)
        is_adapter = start.parts.has_adapter and recipe.adapter is None  # then the model is its base
        config, found_in = find_config(start.parts.base if is_adapter else recipe.model)
        read_as = start.read_as
        if read_as.preset:
            read_as.preset.about.check(recipe.model, config.model_type)
        reading = limited(recipe, read_as.reading(config))
        reading = replace(reading, max_tokens=recipe.max_tokens or reading.max_tokens)
        inputs = InputMaker.of(config, read_as.parts, reading, recipe)
        source = replace(start.parts, preset=read_as.parts.preset)  # which says in what numbers it is loaded
        return cls(recipe, source, config, found_in, PairMaker(inputs, start.prompt(recipe)))

    def build(self, weights: torch.dtype) -> tuple[EmbeddingModel, Counts]:
        """Return the model with its adapter. Of the head it has the rows of a few words, which count for nothing."""
        return build(self.config, start_of(self.recipe, self.source) or self.recipe.lora.spec(), weights)

    def open(self, name: str) -> StageRows:
        """Return a stage's rows."""
        return open_stage(self.recipe.stages[name])[0]

    def micro_batches(self, name: str, rows: StageRows | None, picture: tuple[int, int] | None) -> list[MicroBatch]:
        """Return those that `PairMaker` makes."""
        return self.pairs.micro_batches(self.recipe.stages[name], None if rows is None else rows.sample(), picture)

    def notes(self, name: str) -> tuple[str, ...]:
        """Return that a query's part may be computed once, unless it never is."""
        if self.recipe.gradient_checkpointing or not PAIRED & self.recipe.stages[name].weights.keys():
            return ()
        return (
            "counted with whole prompts: a run takes less where a query's part is computed once for its candidates",
        )


def _start(recipe: RerankRecipe) -> RerankStart:
    """Return what a recipe goes on from, without fetching its base where that is not on this disk."""
    folder = locate(recipe.model)
    if folder is None:
        return start_unseen(recipe, recipe.model, recipe.adapter)
    if recipe.adapter is None and (folder / ADAPTER_CONFIG).is_file():
        base, _ = base_of(folder)
        if locate(base) is None:
            return start_unseen(recipe, base, str(folder))
    return start_from(recipe, str(folder))
