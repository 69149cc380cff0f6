"""What a plan knows of an embedder's recipe: where its model lies, what of it is trained, and its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from mllm_embed.encode.model_source import ModelSource
from mllm_embed.model.embedding_model import EmbeddingModel
from mllm_embed.saving.settings import Settings

from ..batch.stage_data import StageRows, check_avoided, open_stage
from ..recipe.checks import check_dimension
from ..recipe.config import Recipe
from ..recipe.form import settings_of, source_of
from ..recipe.stage_keys.mine import LATE
from ..recipe.start import start_of
from .guide import GuidePlan, plan_guide
from .heads import add_parts, asked_tokens, language_head_bytes
from .inputs import InputMaker, MicroBatch
from .model import Counts, build, find_config, locate

if TYPE_CHECKING:
    from .memory import Setting


@dataclass(frozen=True)
class EmbedderPlan:
    """The part of a plan that an embedder's recipe has for itself; `RerankerPlan` has the same for a re-ranker's.

    Args:
        recipe: the recipe.
        source: where the parts of its model lie.
        config: that of the base.
        found_in: where that was found.
    """

    recipe: Recipe
    source: ModelSource
    config: Any
    found_in: str

    @classmethod
    def of(cls, recipe: Recipe) -> EmbedderPlan:
        """Return that of a recipe; nothing is fetched. Raise ModelError for a model of unknown shape."""
        source = source_of(recipe, locate(recipe.model))
        is_adapter = source.has_adapter and recipe.adapter is None  # then the model is its base
        config, found_in = find_config(source.base if is_adapter else recipe.model)
        if source.preset:
            source.preset.check(recipe.model, config.model_type)
        return cls(recipe, source, config, found_in)

    @property
    def deepspeed(self) -> str | None:
        """Its DeepSpeed stage, None without."""
        return self.recipe.deepspeed

    @cached_property
    def settings(self) -> Settings:
        """The settings with which a run loads its model."""
        return settings_of(self.recipe, self.source, self.config)

    @cached_property
    def asked(self) -> int:
        """Of how many tokens of an input lexical vectors are read."""
        return asked_tokens(self.settings)

    def build(self, weights: torch.dtype) -> tuple[EmbeddingModel, Counts]:
        """Return the model on the meta device with all that is trained, and its numbers of parameters."""
        start = start_of(self.recipe, self.source)
        parts = partial(add_parts, self.recipe, self.settings, start)
        model, counts = build(self.config, start or self.recipe.lora.spec(), weights, self.settings.pooling, parts)
        check_dimension(self.recipe, model.width)
        return model, counts

    def head_bytes(self, model: EmbeddingModel, weights: torch.dtype) -> int:
        """Return what the base's head takes beside the model."""
        return language_head_bytes(self.settings, model, weights)

    def open(self, name: str) -> StageRows:
        """Return a stage's rows."""
        return open_stage(self.recipe.stages[name], self.recipe.thoughts is not None)[0]

    def micro_batches(self, name: str, rows: StageRows | None, picture: tuple[int, int] | None) -> list[MicroBatch]:
        """Return the micro-batches of a stage's step, as `InputMaker` does, once its rows are found to be such as its
        model takes."""
        stage = self.recipe.stages[name]
        if rows is not None:
            rows.ask_with(self._inputs.settings.prompts)
            check_avoided(name, stage, rows, self._inputs.settings, self.recipe.teacher is not None)
        return self._inputs.micro_batches(stage, None if rows is None else rows.sample(), picture)

    @cached_property
    def _inputs(self) -> InputMaker:
        return InputMaker.of(self.config, self.source, self.settings, self.recipe)

    def guide(self, name: str, rows: StageRows | None, steps: int | None, setting: Setting) -> GuidePlan | None:
        """Return the plan of a stage's guide, None without one."""
        place, bf16 = torch.device(setting.place), setting.autocast is not None
        return plan_guide(self.recipe, self.recipe.stages[name], bf16, place, rows, steps)

    def notes(self, name: str) -> tuple[str, ...]:
        """Return what else is to be known of a stage."""
        stage = self.recipe.stages[name]
        keys = stage.mine
        if keys is None:
            return ()
        found = "all that can be found" if keys.candidates is None else f"up to {keys.candidates:,} candidates more"
        asked = (keys.every + LATE) * stage.batch_size
        return (
            f"mines anew every {keys.every:,} steps, without gradients: encodes the up to {asked:,} queries that come, "
            f"and {found}; their vectors lie in main memory",
        )
