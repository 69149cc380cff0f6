"""The queue before a re-ranker: it judges in the model's thread, one part of one request at a time.

Between two parts other requests have their turn, and so have inputs that are embedded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from ..errors import MLLMEmbedError
from ..search.reranking import Judge
from ..types import Item
from .batcher import Batcher
from .batches.pace import Pace
from .operations.logs import note
from .operations.metrics import Metrics
from .refusals import Refusal

Refuse = Callable[[range, Exception], Refusal]
"""From the places of documents that could not be judged and what went wrong to the refusal of the request."""
_FULL = (MemoryError, torch.OutOfMemoryError)


class Judging:
    """Turns at judging, and how many documents may wait for them."""

    def __init__(self, batcher: Batcher, waiting: int, metrics: Metrics):
        """Judge in the thread of a batcher; of all requests together `waiting` documents may wait."""
        self._batcher, self._most, self._metrics = batcher, waiting, metrics
        self._turn = asyncio.Lock()  # whoever asks first gets it first
        self._waiting = 0
        self._pace = Pace()

    async def scores(self, judge: Judge, query: Item, documents: Sequence[Item], refuse: Refuse) -> list[float]:
        """Return what a judge gives documents, computed in parts.

        `refuse` is called in the model's thread. Raises the Refusal that it returns for documents that cannot be
        judged, or do not fit into memory alone; Refusal 503 where too many wait; and as of `Batcher.alone`.
        """
        self._check(len(documents))
        found: list[float] = []
        size = self._batcher.batch_size
        self._count(len(documents))
        try:
            while True:  # of no documents, too: a judge that cannot be asked says so
                async with self._turn:
                    places = range(len(found), min(len(found) + self._pace.at_once(size), len(documents)))
                    part = partial(self._part, judge, query, documents, places, refuse)
                    scores = await self._batcher.alone(part)
                if scores is None:
                    size = len(places) // 2
                    continue
                found += scores
                self._count(-len(scores))
                note(len(scores), 0)
                if len(found) == len(documents):
                    return found
        finally:
            self._count(len(found) - len(documents))

    def _part(
        self, judge: Judge, query: Item, documents: Sequence[Item], places: range, refuse: Refuse
    ) -> list[float] | None:
        """Return the scores of a part of documents; None where they do not fit into memory together."""
        began = time.perf_counter()
        try:
            scores = judge.scores(query, documents[places.start : places.stop])
        except MLLMEmbedError as error:
            raise refuse(places, error) from error
        except _FULL as error:
            error.__traceback__ = None  # whose frames hold the tensors
            if len(places) == 1:
                raise refuse(places, error) from None
            return None
        if places:
            self._pace.took(len(places), time.perf_counter() - began)
        return scores

    def _check(self, documents: int) -> None:
        """Raise Refusal 503 where so many cannot wait. More than may wait at all are taken where none does."""
        if self._waiting and self._waiting + documents > self._most:
            said = f"{self._waiting} documents wait already, of {self._most} that may; try again later"
            raise Refusal(503, said, headers=self._pace.retry_after(self._waiting))

    def _count(self, documents: int) -> None:
        """Count documents that come to wait, or wait no longer."""
        self._waiting += documents
        self._metrics.documents(self._waiting)
