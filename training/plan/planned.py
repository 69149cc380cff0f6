"""What a plan asks of a recipe; embedder.py and reranker.py answer, each for recipes of its kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mllm_embed.encode.model_source import ModelSource
from mllm_embed.model.embedding_model import EmbeddingModel

from ..batch.stage_data import StageRows
from ..recipe.run_keys import RunKeys
from .inputs import MicroBatch
from .model import Counts

if TYPE_CHECKING:
    from .guide import GuidePlan
    from .memory import Setting


@dataclass(frozen=True)
class PlannedRecipe(ABC):
    """A recipe as its plan sees it.

    Args:
        recipe: the recipe.
        source: where the parts of its model lie.
        config: that of the base.
        found_in: where that was found.
    """

    recipe: RunKeys
    source: ModelSource
    config: Any
    found_in: str

    @property
    def asked(self) -> int:
        """Of how many tokens of an input the words are read off the base's head."""
        return 0

    @abstractmethod
    def build(self, weights: torch.dtype) -> tuple[EmbeddingModel, Counts]:
        """Return the model on the meta device with all that is trained, and its numbers of parameters."""

    def head_bytes(self, model: EmbeddingModel, weights: torch.dtype) -> int:
        """Return what the base's head takes beside the model."""
        return 0

    @abstractmethod
    def open(self, name: str) -> StageRows:
        """Return a stage's rows. Raise DataError as `open_stage`."""

    @abstractmethod
    def micro_batches(self, name: str, rows: StageRows | None, picture: tuple[int, int] | None) -> list[MicroBatch]:
        """Return the micro-batches of a stage's step, at their largest.

        Args:
            name: of the stage.
            rows: its own, where its data is on disk.
            picture: the pictures' width and height, as of `longest_inputs`.
        """

    def guide(self, name: str, rows: StageRows | None, steps: int | None, setting: Setting) -> GuidePlan | None:
        """Return the plan of a stage's guide, None without one."""
        return None

    def notes(self, name: str) -> tuple[str, ...]:
        """Return what else is to be known of a stage, a line each."""
        return ()
