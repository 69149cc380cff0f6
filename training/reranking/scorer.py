"""A whole batch of judgements in one forward, chunk by chunk, as gradient caching does it for vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mllm_embed.model.prefix_cache import SharedBatch
from mllm_embed.rerank.model import RerankModel

from ..batch.collator import Chunk
from ..distributed.gradient_caching import BatchEncoder
from .batch import RerankBatch
from .chunks import PairChunk


class BatchScorer(BatchEncoder):
    """A re-ranker's model as Trainer trains it."""

    def __init__(self, reranker: RerankModel):
        """Train a model with its adapter."""
        super().__init__(reranker.model)
        self.reranker = reranker

    def forward(self, batch: RerankBatch) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # other batches
        """Return the margins of the batch's pairs, [P] float32, and the logits of its lists' labels, [B, labels]."""
        nothing = torch.zeros(0, device=self._device)
        margins = [self._run(self.encode, chunk, batch.cached) for chunk in batch.pairs]
        logits = [self._run(self._listed, chunk, batch.cached) for chunk in batch.lists]
        return torch.cat(margins or [nothing]), torch.cat(logits or [nothing[None]])

    def _run(self, score: Callable[..., Tensor], chunk: PairChunk, cached: bool) -> Tensor:
        if not cached:
            return score(chunk)
        here = torch.empty(0, device=self._device)  # by which checkpoint sees whose random state it must put back
        scores: Tensor = checkpoint(score, chunk, here, use_reentrant=False)
        return scores

    def encode(self, chunk: PairChunk, _: Tensor | None = None) -> Tensor:
        """Return the margins of a chunk's pairs, [P] float32; activations stay for their gradients."""
        if isinstance(chunk, SharedBatch):
            return self.reranker.shared(chunk.to(self._device))
        return self.reranker(**self._placed(chunk))

    def _listed(self, chunk: Chunk, _: Tensor | None = None) -> Tensor:
        return self.reranker.list_logits(**self._placed(chunk))

    def _placed(self, chunk: Chunk) -> Chunk:
        return {name: tensor.to(self._device) for name, tensor in chunk.items()}
