"""Queries by a small model, the gallery by the large one that taught it: behind one `encode`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..inputs.plain_values import items_of
from ..inputs.prompts import PromptSet
from ..saving.provenance import SEARCH_FIELDS, check_same
from .avoiding import apart
from .embedder import MLLMEmbedder
from .encoder import check_single


class DualEncoder:
    """An encoder (`encoder.PromptedEncoder`) of two models: `query` encodes composed queries, `gallery` all else."""

    def __init__(self, query: MLLMEmbedder, gallery: MLLMEmbedder):
        """Put two models together. Raises ConfigError for a query model that was not distilled from the gallery's."""
        check_single(gallery, "a gallery for another model's queries")
        check_same(gallery.provenance, query.target_space, SEARCH_FIELDS, "the gallery's model")
        self.query, self.gallery = query, gallery

    @property
    def prompts(self) -> PromptSet:
        """The prompts that both models are asked with."""
        return self.gallery.prompts

    @property
    def dtype(self) -> torch.dtype:
        """The type that the query model computes in."""
        return self.query.dtype

    @property
    def quantization(self) -> str | None:
        """The form in which the query model's weights are kept, as of `MLLMEmbedder`."""
        return self.query.quantization

    @property
    def dim(self) -> int | None:
        """How many of each vector's first numbers are kept; None for all."""
        return self.gallery.dim

    @property
    def unit_length(self) -> bool:
        """Whether the vectors of both models have length 1, as of `MLLMEmbedder`."""
        return self.query.unit_length and self.gallery.unit_length

    @property
    def provenance(self) -> dict[str, Any]:
        """The provenance of the gallery's vectors, as of `MLLMEmbedder`."""
        return self.gallery.provenance

    def with_prompts(self, prompts: PromptSet) -> DualEncoder:
        """Return both models asked through other prompts."""
        # not a new one: the query model was taught through its own prompts, which the check would ask for again
        other = copy.copy(self)
        other.query, other.gallery = self.query.with_prompts(prompts), self.gallery.with_prompts(prompts)
        return other

    def encode(self, inputs: Sequence[Any], *, batch_size: int = 32, show_progress: bool | None = None) -> np.ndarray:
        """Return unit vectors [N, D] float32 in the order of the inputs; options and errors as of `MLLMEmbedder`."""
        # apart, since the query model was taught no words alone: those to avoid are the gallery model's
        items, avoided = apart(items_of(inputs))
        is_composed = np.array([item.role == "composed" for item in items], dtype=bool)
        vectors = np.zeros((len(items), self.gallery.dimension), np.float32)
        for model, chosen in ((self.query, is_composed), (self.gallery, ~is_composed)):
            if chosen.any():
                own = [items[place] for place in np.flatnonzero(chosen)]
                vectors[chosen] = model.encode(own, batch_size=batch_size, show_progress=show_progress)
        return avoided.vectors(vectors)
