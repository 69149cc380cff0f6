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

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..batch.collator import Chunk, ContrastiveBatch
from ..loss.temperature import Temperature
from .alignment import Turn, in_order, in_step


class BatchEncoder(nn.Module):
    """Encodes a batch, chunk by chunk, and gives its vectors with the temperature of the loss.

    Frozen chunks give the vectors of the base model, bit for bit: without adapter, dropout or gradient.
    """

    def __init__(
        self, model: nn.Module, temperature: Temperature | None = None, aligned: bool = False, bf16: bool = False
    ):
        """`aligned`: all processes run the same kinds of chunks, as ZeRO needs it; `bf16`: under bfloat16 autocast."""
        super().__init__()
        self.model = model
        self.temperature = temperature or Temperature(0.05)
        self.aligned, self.bf16 = aligned, bf16

    def forward(self, batch: ContrastiveBatch) -> tuple[Tensor, Tensor]:
        """-> [U, D] float32, L2-normalised, the live ones first, and the temperature, a scalar."""
        live, frozen, cached = in_step(batch, self._device) if self.aligned else in_order(batch)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.bf16) if self.bf16 else nullcontext():
            encode = self._cached if cached else self.encode
            vectors = _in_place(encode, batch.live, live) + self._frozen(batch.frozen, frozen)
        return torch.cat(vectors), self.temperature()

    def _cached(self, chunk: Chunk) -> Tensor:
        # the chunk stays where it is until it is computed, so checkpoint sees by this which device's dropout to repeat
        here = torch.empty(0, device=self._device)
        return checkpoint(self.encode, chunk, here, use_reentrant=False)

    def encode(self, chunk: Chunk, _: Tensor | None = None) -> Tensor:
        """One chunk's vectors, [B, D]; activations are kept for its gradients."""
        return self.model(**{name: tensor.to(self._device) for name, tensor in chunk.items()})

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def _frozen(self, chunks: Sequence[Chunk], turns: Sequence[Turn]) -> list[Tensor]:
        if not chunks:
            return []
        training = self.model.training
        self.model.eval()
        try:
            with self.model.backbone.disable_adapter():
                return _in_place(self.encode, chunks, turns)
        finally:
            self.model.train(training)

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


def _in_place(encode: Callable[[Chunk], Tensor], chunks: Sequence[Chunk], turns: Sequence[Turn]) -> list[Tensor]:
    """The chunks' vectors, in the chunks' order; those that only repeat one take part in the backward pass with 0."""
    vectors, nothing = {}, 0.0
    for number, counts in turns:
        encoded = encode(chunks[number])
        if counts:
            vectors[number] = encoded
        else:
            nothing = nothing + 0 * encoded.sum()
    return [vectors[number] + nothing if number == 0 else vectors[number] for number in range(len(chunks))]
