"""The queue before a re-ranker: it judges in the model's thread, one part of one request at a time.

Between two parts other requests have their turn, and so have inputs that are embedded.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from ..errors import DataError, ImageError, ModelError
from ..types import Item
from .batcher import Batcher
from .batches.reasons import unreadable
from .operations.logs import note
from .refusals import Refusal

if TYPE_CHECKING:
    from ..rerank.reranker import Reranker

T = TypeVar("T")
_PART = 1.0  # seconds that a part is to take at most: whoever comes next waits for it
_SLOWER = 0.8  # share of what was known of the speed that is kept at each part
_LONGEST = 60  # seconds that a client is told to wait at most
_MEMORY = "takes more memory than this server has; send a smaller picture or fewer words"
_CANNOT = "this re-ranker cannot judge: it makes NaN of a pair; tell whoever runs this server"


class Judging:
    """Turns at judging, and how many documents may wait for them."""

    def __init__(self, batcher: Batcher, waiting: int):
        """Judge in the thread of a batcher; of all requests together `waiting` documents may wait."""
        self._batcher, self._most = batcher, waiting
        self._size = batcher.batch_size
        self._turn = asyncio.Lock()  # whoever asks first gets it first
        self._waiting = 0
        self._rate = 0.0  # documents a second

    async def alone(self, documents: int, work: Callable[[], T]) -> T:
        """Return what a function does that judges so many documents at once.

        Raises what it raises, and Refusal: 503 where too many wait, and as of `Batcher.alone`.
        """
        with self._counted(documents):
            return await self._in_turn(documents, work)

    async def scores(
        self, judge: Reranker, query: Item, documents: Sequence[Item], fields: Sequence[str]
    ) -> list[float]:
        """Return what `Reranker.scores` gives documents, computed in parts.

        Args:
            judge: the re-ranker.
            query: the query, which came from the field "query".
            documents: N of them.
            fields: of the request that each came from.

        Raises Refusal: 422 for what cannot be judged, which is named, 500 for what does not fit into memory, and as of
        `alone`.
        """
        found: list[float] = []
        with self._counted(len(documents)):
            while (start := len(found)) < len(documents):
                part = documents[start : start + self._at_once()]
                work = partial(_judged, judge, query, part, fields[start:], self._size)
                try:
                    found += await self._in_turn(len(part), work)
                except (MemoryError, torch.OutOfMemoryError) as error:
                    if len(part) == 1:
                        raise Refusal(500, f"{fields[start]} {_MEMORY}", field=fields[start]) from error
                    error.__traceback__ = None  # whose frames hold the tensors of the part
                    self._size = len(part) // 2
        return found

    def _at_once(self) -> int:
        """Return how many documents a part has: fewer by a model that is slow."""
        return min(self._size, max(1, int(_PART * self._rate))) if self._rate else self._size

    async def _in_turn(self, documents: int, work: Callable[[], T]) -> T:
        async with self._turn:
            began = time.perf_counter()
            done = await self._batcher.alone(work)
            rate = documents / (time.perf_counter() - began)
        self._rate = _SLOWER * self._rate + (1 - _SLOWER) * rate if self._rate else rate
        note(documents, 0)
        return done

    @contextmanager
    def _counted(self, documents: int) -> Iterator[None]:
        """Count documents among those that wait. More than may wait at all are taken where none does."""
        if self._waiting and self._waiting + documents > self._most:
            seconds = self._waiting / self._rate if self._rate else 1
            said = f"{self._waiting} documents wait already, of {self._most} that may; try again later"
            raise Refusal(503, said, headers={"Retry-After": str(min(max(math.ceil(seconds), 1), _LONGEST))})
        self._waiting += documents
        try:
            yield
        finally:
            self._waiting -= documents


def _judged(
    judge: Reranker, query: Item, documents: Sequence[Item], fields: Sequence[str], batch_size: int
) -> list[float]:
    """Return the scores of documents. Raises Refusal for what cannot be judged, naming the first that is at fault."""
    try:
        return judge.scores(query, documents, batch_size=batch_size)
    except (DataError, ImageError) as error:
        raise _fault(judge, query, documents, fields) from error
    except ModelError as error:
        raise Refusal(422, _CANNOT, field="documents") from error


def _fault(judge: Reranker, query: Item, documents: Sequence[Item], fields: Sequence[str]) -> Refusal:
    """Return the refusal of what could not be judged: what no document can be judged beside is the query's fault."""
    for item, field in ((query, "query"), *zip(documents, fields, strict=False)):
        said = unreadable(item, judge.pairs.items)
        if said is not None:
            return Refusal(422, f"{field}: {said}", field=field)
    failures: dict[str, str] = {}
    for document, field in zip(documents, fields, strict=False):
        try:
            judge.pairs.batch([(query, document)])  # computes nothing
        except DataError as error:
            failures[field] = str(error)
    if not failures:
        return Refusal(422, "these documents cannot be judged together; send fewer", field="documents")
    first, said = next(iter(failures.items()))
    place = "query" if 1 < len(documents) == len(failures) else first
    return Refusal(422, f"{place}: {said}", field=place)
