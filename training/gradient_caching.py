"""A whole batch in one forward, of which only one chunk's activations are ever alive: gradient caching.

The classic form (GradCache, arXiv 2101.06983) runs the batch twice by hand, and so needs a training loop, a copy of the
random state, and one gradient synchronisation a chunk of its own. Here each chunk goes through torch's non-reentrant
checkpointing inside the model's forward: it keeps a chunk's vectors, and computes the chunk again when its gradient
comes. There is one forward and one ordinary backward, so any loss and any trainer will do, DDP sends one all-reduce a
step, dropout repeats itself, and the gradients are those of keeping everything, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .collator import Batch, Chunk
from .temperature import Temperature


class BatchEncoder(nn.Module):
    """Encodes a batch, chunk by chunk, and gives its vectors with the temperature of the loss.

    Frozen chunks give the vectors of the base model, bit for bit: without adapter, dropout or gradient.
    """

    def __init__(self, model: nn.Module, temperature: Temperature | None = None):
        super().__init__()
        self.model = model
        self.temperature = temperature or Temperature(0.05)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """-> [U, D] float32, L2-normalised, the live ones first, and the temperature, a scalar."""
        live = [self._cached(chunk) if batch.cached else self._encode(chunk) for chunk in batch.live]
        return torch.cat([*live, *self._frozen(batch.frozen)]), self.temperature()

    def _cached(self, chunk: Chunk) -> Tensor:
        # the chunk stays where it is until it is computed, so checkpoint sees by this which device's dropout to repeat
        here = torch.empty(0, device=self._device)
        return checkpoint(self._encode, chunk, here, use_reentrant=False)

    def _encode(self, chunk: Chunk, _: Tensor | None = None) -> Tensor:
        return self.model(**{name: tensor.to(self._device, non_blocking=True) for name, tensor in chunk.items()})

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def _frozen(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        if not chunks:
            return []
        training = self.model.training
        self.model.eval()
        try:
            with self.model.backbone.disable_adapter():
                return [self._encode(chunk) for chunk in chunks]
        finally:
            self.model.train(training)

    def trainable(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}
