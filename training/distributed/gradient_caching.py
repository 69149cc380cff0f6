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
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mllm_embed.errors import DataError, ModelError
from mllm_embed.model.embedding_model import EmbeddingModel
from mllm_embed.model.pooling import joined
from mllm_embed.thoughts.writer import LABELS

from ..batch.collator import Chunk, ContrastiveBatch
from ..loss.avoiding import avoiding
from ..loss.local_alignment import local_alignment
from ..loss.temperature import Temperature
from ..loss.thoughts import thought_losses
from .alignment import ScheduledChunk, common_schedule, own_schedule
from .gathering import mean_of_all

Encoded: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""A chunk's vectors [B, D], or [B, T, D] where an input has several, the losses of its thoughts [B], and the local
alignment of its pictures [P], none where it is not trained."""
LOCAL, THOUGHTS = "local", "thoughts"


class BatchEncoder(nn.Module):
    """An encoder of batches, chunk by chunk, with the temperature of the loss, which is trained with the rest.

    Frozen chunks give the vectors of the base model, bit for bit: without adapter, dropout or gradient.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        temperature: Temperature | None = None,
        aligned: bool = False,
        bf16: bool = False,
        local: float = 0.0,
        thoughts: float = 0.0,
        words: int = 0,
    ):
        """Set what encodes.

        Args:
            model: the embedding model, with its adapter.
            temperature: of the loss; by default fixed at 0.05.
            aligned: all processes run the same kinds of chunks, as ZeRO needs it.
            bf16: compute under bfloat16 autocast.
            local: weight of the local alignment of what the model's token learner makes.
            thoughts: weight of the loss of thoughts; 0 where none are taught.
            words: tokens of an input that give its lexical vector; 0 for no such vectors.
        """
        super().__init__()
        self.model = model
        self.temperature = temperature or Temperature(0.05)
        self.aligned, self.bf16 = aligned, bf16
        self.local, self.thoughts, self.words = local, thoughts, words
        self.centroids: nn.Parameter | None = None

    def tune(self, centroids: Tensor) -> None:
        """Train centroids [S, 256, D / S] of product codes with the rest, from these on; the loss reads them."""
        self.centroids = nn.Parameter(centroids.to(self._device, copy=True))

    def forward(self, batch: ContrastiveBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the vectors of a batch, [U, D] or [U, T, D] float32, L2-normalised, with lexical ones behind them
        [U, D + V], of length 1 too; the temperature, a scalar; and by name the losses that are none of vectors,
        scalars, weighted.

        That of thoughts is the mean over this process's rows, in which a thought that is not taught counts 0, and one
        of a query that several rows share counts once. That of local alignment is the mean over the pictures that all
        processes encode: one that two of them encode counts twice.
        """
        schedule = common_schedule(batch, self._device) if self.aligned else own_schedule(batch)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.bf16) if self.bf16 else nullcontext():
            encode = self._cached if schedule.cached else self._encoded
            encoded = _run(encode, batch.live, schedule.live) + self._frozen(batch.frozen, schedule.frozen)
        vectors, losses, local = (joined(part) for part in zip(*encoded, strict=True))
        # also where nothing in this process's batch thinks: all processes log the same figures
        own = {THOUGHTS: self.thoughts * losses.sum() / len(batch.ids)} if self.thoughts else {}
        own |= {LOCAL: self.local * mean_of_all(local)} if self.local else {}
        if self.centroids is not None:  # with weight 0: DDP must meet all that is trained in what a forward returns
            vectors = vectors + 0 * self.centroids.sum()
        return with_avoiding(vectors, batch.avoided), self.temperature(), own

    def _cached(self, chunk: Chunk) -> Encoded:
        # The chunk stays where it is until it is computed, so checkpoint sees by this which device's random state it
        # must put back: the second pass has to drop what the first one dropped, or its gradients belong elsewhere.
        here = torch.empty(0, device=self._device)
        return checkpoint(self._encoded, chunk, here, use_reentrant=False)

    def _encoded(self, chunk: Chunk, _: Tensor | None = None) -> Encoded:
        losses: list[Tensor] = [torch.empty(0, device=self._device)]
        if not self.local or self.model.token_learner is None:
            return (*self._with_thoughts(chunk), losses[0])

        def note(learner: nn.Module, given: tuple[Any, ...], learned: Tensor) -> None:
            losses.append(local_alignment(learned, given[0]))

        watching = self.model.token_learner.register_forward_hook(note)
        try:
            return (*self._with_thoughts(chunk), torch.cat(losses))
        finally:
            watching.remove()

    def encode(self, chunk: Chunk) -> Tensor:
        """Return a chunk's vectors as `forward` does, [B, D] float32; activations stay for its gradients."""
        return self._with_thoughts(chunk)[0]

    def _with_thoughts(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        inputs = {name: tensor.to(self._device) for name, tensor in chunk.items()}
        labels, head = inputs.pop(LABELS, None), self.model.language_head
        if labels is None:
            vectors = (
                torch.cat(self.model.with_words(self.words, False, **inputs), 1) if self.words else self.model(**inputs)
            )
            return vectors, vectors.new_zeros(len(vectors))
        if head is None:
            raise ModelError("thoughts are taught to a model that was loaded without its language-model head")
        vectors, hidden = self.model.with_hidden(**inputs)
        return vectors, thought_losses(hidden, labels, head)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def _frozen(self, chunks: Sequence[Chunk], turns: Sequence[ScheduledChunk]) -> list[Encoded]:
        if not chunks:
            return []
        training = self.model.training
        self.model.eval()
        try:
            adapted: Any = self.model.backbone  # peft's wrapper, which has no types
            with adapted.disable_adapter():
                return _run(self._encoded, chunks, turns)
        finally:
            self.model.train(training)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return what is trained, by name: the adapter, and where they are learned temperature and centroids."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


def with_avoiding(vectors: Tensor, avoided: Tensor) -> Tensor:
    """Return encoded vectors [E, D], and behind them those of the queries that avoid something: [E + V, D].

    `avoided` is as of ContrastiveBatch. They are made outside of what is computed twice, of vectors that stay.
    """
    if not len(avoided):
        return vectors
    if vectors.dim() > 2:
        raise DataError(
            "rows avoid something, which is taken from a single vector, and pooling: multi makes one a token; leave "
            "the column `avoid` out"
        )
    query, words = avoided.to(vectors.device).unbind(1)
    return torch.cat([vectors, avoiding(vectors[query], vectors[words])])


def _run(encode: Callable[[Chunk], Encoded], chunks: Sequence[Chunk], turns: Sequence[ScheduledChunk]) -> list[Encoded]:
    """Return the chunks as they are encoded in the chunks' order, whatever the order of the turns."""
    found: dict[int, Encoded] = {}
    repeated: list[Tensor] = []
    for number, counts in turns:
        encoded = encode(chunks[number])
        if counts:
            found[number] = encoded
        else:
            repeated.append(encoded[0])
    for vectors in repeated:
        # with weight 0: its backward pass runs too, since the other processes wait there for this one
        found[0] = (found[0][0] + 0 * vectors.sum(), *found[0][1:])
    return [found[number] for number in range(len(chunks))]
