"""What a plan knows of a re-ranker's recipe: where its model lies, what of it is trained, and its inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from mllm_embed.encode.model_source import ModelSource
from mllm_embed.inputs.pairs.prompt import RerankPrompt
from mllm_embed.model.embedding_model import EmbeddingModel
from mllm_embed.presets.rerankers.catalog import reranker_preset_of
from mllm_embed.saving.reranker_settings import RerankSettings
from mllm_embed.saving.settings import Settings

from ..batch.stage_data import StageRows, open_stage
from ..recipe.pixels import limited
from ..recipe.reranker.recipe import RerankRecipe
from ..recipe.reranker.start import check_lists, parts_of
from ..recipe.start import start_of
from .guide import GuidePlan
from .inputs import InputMaker, MicroBatch
from .model import Counts, build, find_config, locate
from .pairs import PAIRED, PairMaker

if TYPE_CHECKING:
    from .memory import Setting


@dataclass(frozen=True)
class RerankerPlan:
    """The part of a plan that a re-ranker's recipe has for itself, as `EmbedderPlan` has an embedder's.

    Args:
        recipe, source, config, found_in: as of `EmbedderPlan`.
        own: the settings of the re-ranker to go on from, or of the base, untrained.
    """

    recipe: RerankRecipe
    source: ModelSource
    config: Any
    found_in: str
    own: RerankSettings
    deepspeed = None
    asked = 0

    @classmethod
    def of(cls, recipe: RerankRecipe) -> RerankerPlan:
        """Return that of a recipe; nothing is fetched. Raise ModelError for a model of unknown shape, ConfigError for a
        prompt that its terms cannot be asked with."""
        folder, saved = locate(recipe.model), None
        source = ModelSource(recipe.model, None, recipe.model, has_adapter=False, saved=None)
        if folder:
            source, saved = parts_of(recipe, str(folder))
        is_adapter = source.has_adapter and recipe.adapter is None  # then the model is its base
        config, found_in = find_config(source.base if is_adapter else recipe.model)
        preset = reranker_preset_of(source.base)
        if preset:
            preset.about.check(source.base, config.model_type)
            source = replace(source, preset=preset.about)
        own = saved or (preset.settings if preset else RerankSettings())
        plan = cls(recipe, source, config, found_in, own.asked(recipe.reranker.prompt or own.prompt))
        check_lists(recipe, plan.prompt)
        return plan

    @property
    def prompt(self) -> RerankPrompt:
        """How it is asked."""
        return self.own.prompt

    @property
    def _reading(self) -> Settings:
        """How it reads pictures and tokens."""
        reading, positions = self.own.reading, getattr(self.config.get_text_config(), "max_position_embeddings", None)
        if reading.max_tokens and positions:
            reading = replace(reading, max_tokens=min(reading.max_tokens, positions))
        return replace(limited(self.recipe, reading), max_tokens=self.recipe.max_tokens or reading.max_tokens)

    def build(self, weights: torch.dtype) -> tuple[EmbeddingModel, Counts]:
        """Return the model on the meta device with its adapter, and its numbers of parameters."""
        start = start_of(self.recipe, self.source)
        return build(self.config, start or self.recipe.lora.spec(), weights)

    def head_bytes(self, model: EmbeddingModel, weights: torch.dtype) -> int:
        """Return what the base's head takes beside the model: of the rows of a few words, nothing that counts."""
        return 0

    def open(self, name: str) -> StageRows:
        """Return a stage's rows."""
        return open_stage(self.recipe.stages[name])[0]

    def micro_batches(self, name: str, rows: StageRows | None, picture: tuple[int, int] | None) -> list[MicroBatch]:
        """Return the micro-batches of a stage's step, as `PairMaker` does."""
        return self._inputs.micro_batches(self.recipe.stages[name], None if rows is None else rows.sample(), picture)

    @cached_property
    def _inputs(self) -> PairMaker:
        return PairMaker(InputMaker.of(self.config, self.source, self._reading, self.recipe), self.prompt)

    def guide(self, name: str, rows: StageRows | None, steps: int | None, setting: Setting) -> GuidePlan | None:
        """Return None: no stage has a guide."""
        return None

    def notes(self, name: str) -> tuple[str, ...]:
        """Return what else is to be known of a stage."""
        if self.recipe.gradient_checkpointing or not PAIRED & self.recipe.stages[name].weights.keys():
            return ()  # every prompt is computed whole
        return (
            "with every prompt whole: what a query's candidates share is computed once, where that can be, and less",
        )
