"""The model as a `Searcher` asks for it, behind the queue of all requests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..inputs.plain_values import items_of
from ..vectors.precision import truncate
from .batcher import Batcher
from .refusals import Refusal


class BatchedEncoder:
    """An encoder (`encode.encoder.Encoder`) that is called in a thread of a request (`asyncio.to_thread`), under its
    ticket, and waits in the queue like everybody."""

    def __init__(self, batcher: Batcher):
        """Encode through `batcher`, with the model behind it."""
        self._batcher, self._embedder = batcher, batcher.embedder

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What tells the model's vectors from others'."""
        return self._embedder.provenance

    @property
    def target_space(self) -> Mapping[str, Any]:
        """What tells the vectors that its queries are compared with."""
        return self._embedder.target_space

    @property
    def unit_length(self) -> bool:
        """Whether vectors have length 1."""
        return self._embedder.unit_length

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._embedder.dimension

    def encode(self, inputs: Sequence[Any], *, batch_size: int = 32, show_progress: bool | None = None) -> np.ndarray:
        """Return vectors [N, D] float32 in the order of the inputs, as of `MLLMEmbedder.encode`.

        The queue decides how many are computed at once, and no bar is shown. Raises Refusal 422 for the first input
        that cannot be embedded, and as `Batcher.encode` does.
        """
        embedder = self._embedder
        answer = asyncio.run_coroutine_threadsafe(self._batcher.encode(items_of(inputs)), self._batcher.loop)
        found = answer.result()
        if found.failures:
            place = min(found.failures)
            raise Refusal(422, f"input {place} cannot be embedded: {found.failures[place]}")
        return truncate(found.vectors, embedder.dim, embedder.settings.renormalize)
