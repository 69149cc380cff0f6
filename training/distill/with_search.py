"""A re-ranker and the embedder that searches, as one judge: as answers are put in order, so lists are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllm_embed import MLLMEmbedder, Reranker
from mllm_embed.inputs.pairs.prompt import RerankPrompt


@dataclass(frozen=True)
class WithSearch:
    """A re-ranker's score of a candidate, and `weight` times its cosine (LamRA, arXiv 2412.01720, adds the two)."""

    reranker: Reranker
    embedder: MLLMEmbedder
    weight: float

    @property
    def provenance(self) -> dict[str, Any]:
        """What tells its scores from others'."""
        return {**self.reranker.provenance, "search": self.embedder.provenance, "search_weight": self.weight}

    @property
    def prompt(self) -> RerankPrompt:
        """How the re-ranker is asked."""
        return self.reranker.prompt

    def scores_of(
        self, lists: Sequence[tuple[Any, Sequence[Any]]], *, show_progress: bool | None = None
    ) -> list[list[float]]:
        """Return the scores of many queries' candidates, as `Reranker.scores_of`."""
        scores = self.reranker.scores_of(lists, show_progress=show_progress)
        items = [item for query, candidates in lists for item in (query, *candidates)]
        vectors = self.embedder.encode(items, show_progress=show_progress)
        starts = np.cumsum([0, *(1 + len(candidates) for _, candidates in lists)])
        found = []
        for own, start in zip(scores, starts.tolist(), strict=False):
            cosines = vectors[start + 1 : start + 1 + len(own)] @ vectors[start]
            found.append((np.array(own) + self.weight * cosines).tolist())
        return found
