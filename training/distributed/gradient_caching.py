"""A whole batch in one forward, of which only one chunk's activations are ever alive: gradient caching.

The classic form (GradCache, arXiv 2101.06983) runs the batch twice by hand, and so needs a training loop, a copy of the
random state, and one gradient synchronisation a chunk of its own. Here each chunk goes through torch's non-reentrant
checkpointing inside the model's forward: it keeps a chunk's vectors, and computes the chunk again when its gradient
comes. There is one forward and one ordinary backward, so any loss and any trainer will do, DDP sends one all-reduce a
step, dropout repeats itself, and the gradients are those of keeping everything, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mllm_embed.model.embedding_model import EmbeddingModel

from ..batch.collator import Chunk, ContrastiveBatch
from ..loss.avoiding import avoiding
from ..loss.temperature import Temperature
from .alignment import ScheduledChunk, common_schedule, own_schedule


class BatchEncoder(nn.Module):
    """An encoder of batches, chunk by chunk, with the temperature of the loss, which is trained with the rest.

    Frozen chunks give the vectors of the base model, bit for bit: without adapter, dropout or gradient.
    """

    def __init__(
        self, model: EmbeddingModel, temperature: Temperature | None = None, aligned: bool = False, bf16: bool = False
    ):
        """Set what encodes.

        Args:
            model: the embedding model, with its adapter.
            temperature: of the loss; by default fixed at 0.05.
            aligned: all processes run the same kinds of chunks, as ZeRO needs it.
            bf16: compute under bfloat16 autocast.
        """
        super().__init__()
        self.model = model
        self.temperature = temperature or Temperature(0.05)
        self.aligned, self.bf16 = aligned, bf16

    def forward(self, batch: ContrastiveBatch) -> tuple[Tensor, Tensor]:
        """Return the vectors of a batch, [U, D] float32, L2-normalised, and the temperature, a scalar."""
        schedule = common_schedule(batch, self._device) if self.aligned else own_schedule(batch)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.bf16) if self.bf16 else nullcontext():
            encode = self._cached if schedule.cached else self.encode
            vectors = _run(encode, batch.live, schedule.live) + self._frozen(batch.frozen, schedule.frozen)
        return with_avoiding(torch.cat(vectors), batch.avoided), self.temperature()

    def _cached(self, chunk: Chunk) -> Tensor:
        # The chunk stays where it is until it is computed, so checkpoint sees by this which device's random state it
        # must put back: the second pass has to drop what the first one dropped, or its gradients belong elsewhere.
        here = torch.empty(0, device=self._device)
        return checkpoint(self.encode, chunk, here, use_reentrant=False)

    def encode(self, chunk: Chunk, _: Tensor | None = None) -> Tensor:
        """Return a chunk's vectors, [B, D] float32, L2-normalised; activations stay for its gradients."""
        return self.model(**{name: tensor.to(self._device) for name, tensor in chunk.items()})

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def _frozen(self, chunks: Sequence[Chunk], turns: Sequence[ScheduledChunk]) -> list[Tensor]:
        if not chunks:
            return []
        training = self.model.training
        self.model.eval()
        try:
            adapted: Any = self.model.backbone  # peft's wrapper, which has no types
            with adapted.disable_adapter():
                return _run(self.encode, chunks, turns)
        finally:
            self.model.train(training)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return what is trained, by name: the adapter, and where it is learned the temperature."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


def with_avoiding(vectors: Tensor, avoided: Tensor) -> Tensor:
    """Return encoded vectors [E, D], and behind them those of the queries that avoid something: [E + V, D].

    `avoided` is as of ContrastiveBatch. They are made outside of what is computed twice, of vectors that stay.
    """
    if not len(avoided):
        return vectors
    query, words = avoided.to(vectors.device).unbind(1)
    return torch.cat([vectors, avoiding(vectors[query], vectors[words])])


def _run(encode: Callable[[Chunk], Tensor], chunks: Sequence[Chunk], turns: Sequence[ScheduledChunk]) -> list[Tensor]:
    """Return the chunks' vectors in the chunks' order, whatever the order of the turns."""
    vectors: dict[int, Tensor] = {}
    repeated: list[Tensor] = []
    for number, counts in turns:
        encoded = encode(chunks[number])
        if counts:
            vectors[number] = encoded
        else:
            repeated.append(encoded)
    for encoded in repeated:
        # with weight 0: its backward pass runs too, since the other processes wait there for this one
        vectors[0] = vectors[0] + 0 * encoded.sum()
    return [vectors[number] for number in range(len(chunks))]
