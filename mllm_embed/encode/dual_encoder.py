"""Queries by a small model, the gallery by the large one that taught it: one embedder to whoever asks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..inputs.prompts import PromptSet
from ..saving.provenance import SPACE_FIELDS, check_same
from ..types import as_item
from .embedder import MLLMEmbedder


class DualEncoder:
    """Encodes composed queries with `query`, and everything else (pictures, texts) with `gallery`."""

    def __init__(self, query: MLLMEmbedder, gallery: MLLMEmbedder):
        """Raises ConfigError for a query encoder that was not distilled from the gallery's model."""
        check_same(gallery.provenance, query.target_space, SPACE_FIELDS, "the gallery's model")
        self.query, self.gallery = query, gallery

    @property
    def prompts(self) -> PromptSet:
        return self.gallery.prompts

    @property
    def dtype(self) -> torch.dtype:
        return self.query.dtype

    @property
    def quantization(self) -> str | None:
        return self.query.quantization

    @property
    def dim(self) -> int | None:
        return self.gallery.dim

    @property
    def provenance(self) -> dict[str, Any]:
        """What made the gallery's vectors."""
        return self.gallery.provenance

    def with_prompts(self, prompts: PromptSet) -> DualEncoder:
        """Both models asked through other prompts."""
        towers = copy.copy(self)  # that they belong together was looked at, and holds for the prompts of the teaching
        towers.query, towers.gallery = self.query.with_prompts(prompts), self.gallery.with_prompts(prompts)
        return towers

    def encode(self, inputs: Sequence[Any], *, batch_size: int = 32, show_progress: bool | None = None) -> np.ndarray:
        """As `MLLMEmbedder.encode`: [N, D] float32 in the order of the inputs."""
        items = [as_item(value) for value in inputs]
        asked = np.array([item.role == "composed" for item in items], dtype=bool)
        out = np.zeros((len(items), self.gallery.dimension), np.float32)
        for tower, mine in ((self.query, asked), (self.gallery, ~asked)):
            if mine.any():
                some = [items[at] for at in np.flatnonzero(mine)]
                out[mine] = tower.encode(some, batch_size=batch_size, show_progress=show_progress)
        return out
