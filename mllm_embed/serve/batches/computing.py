"""Inputs of several requests computed together, in two threads: one plans a batch and decodes its pictures while the
model is busy with the batch before it in the other."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from ...encode.avoiding import apart
from ...encode.embedder import MLLMEmbedder
from ...encode.execution import forward
from ...encode.memory import keep_pages
from ...encode.prefetch import Batch, prefetch
from ...errors import ConfigError, DataError
from ...types import Item
from .reasons import reason

if TYPE_CHECKING:
    from ...encode.planning import EncodingPlan

T = TypeVar("T")
_log = logging.getLogger(__name__)
_NAN = "the model makes no numbers of it (NaN); tell whoever runs this server"
_MEMORY = "it takes more memory than this server has; send a smaller picture or fewer words"
_BROKEN = "the model failed on it; tell whoever runs this server"


@dataclass(frozen=True)
class Computed:
    """What became of the inputs of a batch.

    Args:
        vectors: [N, width] float32, whole and of unit length; 0 for others than were computed.
        tokens: of each.
        failures: what of them is at fault, by their places.
        broken: what the model could not do although they are right, by their places.
        seconds: how long they held up those behind them.
    """

    vectors: np.ndarray
    tokens: list[int]
    failures: dict[int, str]
    broken: dict[int, str]
    seconds: float = 0.0


@dataclass(frozen=True)
class _Planned:
    work: EncodingPlan
    failures: dict[int, str]


class Computing:
    """The two threads of a model. Nothing but them has to do with it.

    A tokenizer serves one at a time, so that whoever plans holds a lock. The model's thread waits for plans of the
    other, which waits for nothing but that lock, and nothing else is waited for while it is held.
    """

    def __init__(self, embedder: MLLMEmbedder, batch_size: int):
        """Start to compute with `embedder`; `batch_size` is as of its `encode`."""
        self._embedder, self._batch_size = embedder, batch_size
        self._views: dict[bool | None, MLLMEmbedder] = {None: embedder, embedder.settings.truncate: embedder}
        self._planner, self._model = ThreadPoolExecutor(1, "plan"), ThreadPoolExecutor(1, "model")
        self._planning = threading.Lock()
        if embedder.device.type == "cpu":
            keep_pages()

    def close(self) -> None:
        """End the threads, when they have done what they are at."""
        for pool in (self._planner, self._model):
            pool.shutdown()

    async def alone(self, work: Callable[[], T]) -> T:
        """Return what a function does that has the model for itself, between two batches. Raises what it raises."""

        def without_plans() -> T:
            with self._planning:
                return work()

        return await asyncio.wrap_future(self._model.submit(copy_context().run, without_plans))

    async def batch(self, items: Sequence[Item], truncate: bool | None = None) -> Computed:
        """Return what becomes of inputs; one that breaks the model, or its memory, takes no other with it.

        `truncate` cuts words over the limit; None does as the model is set to.
        """
        [found] = await asyncio.gather(self._once(items, truncate), return_exceptions=True)
        if isinstance(found, Computed):
            return found
        if not isinstance(found, Exception):
            raise found  # to stop is no input's fault
        if len(items) == 1:
            return self._without(found)
        found.__traceback__ = None  # whose frames hold the tensors of the batch
        middle = len(items) // 2
        return _joined(await self.batch(items[:middle], truncate), await self.batch(items[middle:], truncate))

    async def _once(self, items: Sequence[Item], truncate: bool | None) -> Computed:
        ready: SimpleQueue[Batch | None] = SimpleQueue()
        planned = self._planner.submit(self._plan, items, truncate, ready)
        return await asyncio.wrap_future(self._model.submit(self._compute, planned, ready))

    def _plan(self, items: Sequence[Item], truncate: bool | None, ready: SimpleQueue[Batch | None]) -> _Planned:
        """Make model input of items, which goes into `ready` as it is made, None after the last."""
        try:
            with self._planning:
                embedder = self._view(truncate)
                work = embedder.plan(items, batch_size=self._batch_size, skip_unreadable=True)
                failed = set(work.failures)
                for batch in prefetch(work, embedder.item_processor):
                    failed.update(place for number in batch.failures for place in work.places[number])
                    ready.put(batch)
                asked, _ = apart(items)
                reasons = {place: reason(asked[place], embedder.item_processor) for place in sorted(failed)}
            return _Planned(work, reasons)
        finally:
            ready.put(None)

    def _compute(self, planned: Future[_Planned], ready: SimpleQueue[Batch | None]) -> Computed:
        started, model = time.perf_counter(), self._embedder.model
        parts = [(batch, forward(model, batch.model_input)) for batch in iter(ready.get, None) if batch.model_input]
        return _in_order(planned.result(), parts, model.width, time.perf_counter() - started)

    def _view(self, truncate: bool | None) -> MLLMEmbedder:
        """Return the model with its words cut or not. Raises ConfigError where its tokenizer cannot do that."""
        if truncate not in self._views:
            own = self._embedder
            settings = own.settings.limited(None, truncate)
            view = MLLMEmbedder(own.model, own.processor, settings, own.dim, own.preset)
            view.thought_cache = own.thought_cache
            self._views[truncate] = view
        return self._views[truncate]

    def _without(self, error: Exception) -> Computed:
        """Return what became of one input that ended in an error."""
        vectors = np.zeros((1, self._embedder.model.width), np.float32)
        if isinstance(error, DataError | ConfigError):  # words of our own on what is asked, no picture's
            return Computed(vectors, [0], {0: str(error)}, {})
        _log.error("the model failed on an input", exc_info=error)
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        error.__traceback__ = None
        return Computed(vectors, [0], {}, {0: _MEMORY if full else _BROKEN})


def _in_order(found: _Planned, parts: Sequence[tuple[Batch, np.ndarray]], width: int, seconds: float) -> Computed:
    """Return computed batches in the order of the list that was planned."""
    inputs, places, avoided = found.work.given.inputs, found.work.places, found.work.avoided
    vectors, tokens = np.zeros((inputs, width), np.float32), [0] * inputs
    for batch, rows in parts:
        for number, vector, count in zip(batch.numbers, rows, batch.tokens(), strict=True):
            for place in places[number]:
                vectors[place], tokens[place] = vector, count
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
    vectors[bad] = 0
    return Computed(
        avoided.vectors(vectors),
        avoided.tokens(tokens),
        avoided.failures(found.failures),
        avoided.failures(dict.fromkeys(bad, _NAN)),
        seconds,
    )


def _joined(first: Computed, second: Computed) -> Computed:
    """Return the inputs of two batches as those of one."""
    start = len(first.tokens)
    return Computed(
        np.concatenate([first.vectors, second.vectors]),
        first.tokens + second.tokens,
        first.failures | _moved(second.failures, start),
        first.broken | _moved(second.broken, start),
        first.seconds + second.seconds,
    )


def _moved(said: dict[int, str], by: int) -> dict[int, str]:
    return {place + by: words for place, words in said.items()}
