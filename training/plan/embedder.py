"""A recipe of an embedder as its plan sees it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from mllm_embed.model.embedding_model import EmbeddingModel

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
from .planned import PlannedRecipe

if TYPE_CHECKING:
    from .memory import Setting


@dataclass(frozen=True)
class PlannedEmbedder(PlannedRecipe):
    """That of an embedder.

    Args:
        recipe, source, config, found_in: as of `PlannedRecipe`.
        inputs: what its model gets of a stage's rows, by the settings with which a run loads it.
    """

    recipe: Recipe
    inputs: InputMaker

    @classmethod
    def of(cls, recipe: Recipe) -> PlannedEmbedder:
        """Return that of a recipe. Raise ModelError for a model of unknown shape, ConfigError as `settings_of` and
        `InputMaker.of`."""
        source = source_of(recipe, locate(recipe.model))
        is_adapter = source.has_adapter and recipe.adapter is None  # then the model is its base
        config, found_in = find_config(source.base if is_adapter else recipe.model)
        if source.preset:
            source.preset.check(recipe.model, config.model_type)
        inputs = InputMaker.of(config, source, settings_of(recipe, source, config), recipe)
        return cls(recipe, source, config, found_in, inputs)

    @property
    def asked(self) -> int:
        """Of how many tokens of an input lexical vectors are read."""
        return asked_tokens(self.inputs.settings)

    def build(self, weights: torch.dtype) -> tuple[EmbeddingModel, Counts]:
        """Return the model with all that is trained."""
        start, settings = start_of(self.recipe, self.source), self.inputs.settings
        parts = partial(add_parts, self.recipe, settings, start)
        model, counts = build(self.config, start or self.recipe.lora.spec(), weights, settings.pooling, parts)
        check_dimension(self.recipe, model.width)
        return model, counts

    def head_bytes(self, model: EmbeddingModel, weights: torch.dtype) -> int:
        """Return what the base's head takes that lexical vectors are read off."""
        return language_head_bytes(self.inputs.settings, model, weights)

    def open(self, name: str) -> StageRows:
        """Return a stage's rows."""
        return open_stage(self.recipe.stages[name], self.recipe.thoughts is not None)[0]

    def micro_batches(self, name: str, rows: StageRows | None, picture: tuple[int, int] | None) -> list[MicroBatch]:
        """Return those that `InputMaker` makes of rows which its model takes."""
        stage, settings = self.recipe.stages[name], self.inputs.settings
        if rows is not None:
            rows.ask_with(settings.prompts)
            check_avoided(name, stage, rows, settings, self.recipe.teacher is not None)
        return self.inputs.micro_batches(stage, None if rows is None else rows.sample(), picture)

    def guide(self, name: str, rows: StageRows | None, steps: int | None, setting: Setting) -> GuidePlan | None:
        """Return the plan of a stage's guide, None without one."""
        place, bf16 = torch.device(setting.place), setting.autocast is not None
        return plan_guide(self.recipe, self.recipe.stages[name], bf16, place, rows, steps)

    def notes(self, name: str) -> tuple[str, ...]:
        """Return what a stage mines while it trains."""
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
