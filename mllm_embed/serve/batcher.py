"""Inputs of all requests wait here, and are computed together.

A request that comes while the model is idle is computed at once. What comes while it is busy piles up, and the next
batch takes it together, in turns (`batches.turns`): equal inputs and shared pictures are then computed once, whoever
sent them. There is nothing to wait for but those who ask again as soon as they are answered: where the last batch
served several requests, the next one waits for as many, as long as the model is busy and `max_wait` beyond that.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..types import Item
from .batches.computing import Computed, Computing
from .batches.pace import Pace
from .batches.turns import Embedded, Job, Part, Turns
from .operations.logs import note
from .refusals import Refusal
from .tickets import current

if TYPE_CHECKING:
    from ..encode.embedder import MLLMEmbedder

T = TypeVar("T")
_log = logging.getLogger(__name__)
_AT_ONCE = 2  # batches: one that the model computes, one that is made ready
_AGAIN = 0.1  # seconds after an answer within which whoever got it is thought to ask again


class Observer(Protocol):
    """Whoever counts what happens here."""

    def queued(self, inputs: int) -> None:
        """Take note of how many inputs wait."""

    def batch(self, inputs: int, tokens: int, seconds: float) -> None:
        """Take note of a batch, and how long the model was busy with it."""


class _Nobody:
    def queued(self, inputs: int) -> None:
        """Do nothing."""

    def batch(self, inputs: int, tokens: int, seconds: float) -> None:
        """Do nothing."""


class Batcher:
    """The queue before a model. All of it happens in one event loop, but for the computing."""

    def __init__(
        self,
        embedder: MLLMEmbedder,
        *,
        batch_size: int = 32,
        max_wait: float = 0.002,
        waiting: int = 1024,
        observe: Observer | None = None,
    ):
        """Make a queue; `start` opens it.

        Args:
            embedder: the model, which nothing else may use from then on.
            batch_size: inputs that are computed at once, or fewer where that takes long.
            max_wait: seconds that an idle model waits for more than one request, where more are likely to come.
            waiting: the most inputs that wait, of all requests together.
            observe: told of what happens.
        """
        self.embedder, self.batch_size, self._wait, self._most = embedder, batch_size, max_wait, waiting
        self._observe: Observer = observe or _Nobody()
        self._width = embedder.model.width  # looked up in the model's parts each time
        self._turns = Turns(max(1, batch_size // 4))
        self._came = asyncio.Event()
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._busy: set[asyncio.Task[None]] = set()
        self._computing: Computing | None = None
        self._serving: asyncio.Task[None] | None = None
        self._closed = True
        self._last, self._ended = 0, -math.inf  # requests of the last batch, and when it ended
        self._pace = Pace()

    def start(self) -> None:
        """Take requests from now on. It is called in the event loop that will make them."""
        self._computing = Computing(self.embedder, self.batch_size)
        self._closed = False
        self._serving = asyncio.get_running_loop().create_task(self._serve())

    async def close(self) -> None:
        """Take no more requests, and return when those that were taken are done."""
        self._closed = True
        self._came.set()
        if self._serving is not None:
            await self._serving
            await asyncio.gather(*self._busy)
            await asyncio.to_thread(self._ready().close)

    async def encode(self, items: Sequence[Item], truncate: bool | None = None) -> Embedded:
        """Return what becomes of the inputs of the request whose ticket is held.

        Args:
            items: its inputs.
            truncate: cut words over the model's limit, or let such an input fail; None does as the model is set to.

        Raises Refusal: 503 where too many wait or the server shuts down, 408 after the ticket's deadline, 500 for an
        input that breaks the model.
        """
        ticket = current()
        self._check(len(items))
        found = Embedded.of(len(items), self._width)
        if not items:
            return found
        job = Job(ticket, items, truncate, asyncio.get_running_loop().create_future(), found)
        self._put(job)
        try:
            await asyncio.wait([job.done], timeout=max(ticket.left, 0))
            if not job.done.done():
                raise ticket.too_late()
            found = job.done.result()
            note(len(items), sum(found.tokens))
            return found
        finally:
            if not job.done.cancel():
                job.done.exception()  # seen, whatever ended this: the loop complains of errors that nobody looks at
            self._turns.drop(job)
            self._observe.queued(self._turns.waiting)

    async def alone(self, work: Callable[[], T]) -> T:
        """Return what a function does in the model's thread, with the model for itself, between two batches.

        Raises what the function raises, and Refusal: 503 where the server shuts down, 408 where its turn comes after
        the deadline of the ticket that is held.
        """
        self._check(0)
        ticket = current()

        def in_time() -> T:
            if ticket.gone or ticket.left <= 0:
                raise ticket.dropped()
            return work()

        return await self._ready().alone(in_time)

    def _check(self, inputs: int) -> None:
        """Raise Refusal 503 where so many inputs cannot wait. More than may wait at all are taken by an empty queue."""
        self._ready()
        if self._closed:
            raise self._refusal("this server shuts down")
        waiting = self._turns.waiting
        if inputs and waiting and waiting + inputs > self._most:
            raise self._refusal(f"{waiting} inputs wait already, of {self._most} that may; try again later")

    def _ready(self) -> Computing:
        if self._computing is None:
            raise self._refusal("this server is not ready yet")
        return self._computing

    def _refusal(self, message: str) -> Refusal:
        return Refusal(503, message, headers=self._pace.retry_after(self._turns.waiting))

    def _put(self, job: Job) -> None:
        self._turns.put(job)
        self._observe.queued(self._turns.waiting)
        self._came.set()

    async def _serve(self) -> None:
        """Make batches of what waits, until there is no more to come."""
        while True:
            await self._free.acquire()
            if not await self._enough():
                return
            for job in self._turns.unwanted():
                if not job.done.done():
                    job.done.set_exception(job.ticket.dropped())
            parts = self._turns.take(self._pace.at_once(self.batch_size))
            self._observe.queued(self._turns.waiting)
            if not parts:
                self._free.release()
                continue
            self._last = len({id(part.job) for part in parts})
            task = asyncio.create_task(self._carry_out(parts))
            self._busy.add(task)
            task.add_done_callback(self._ended_batch)

    def _ended_batch(self, task: asyncio.Task[None]) -> None:
        self._busy.discard(task)
        self._ended = time.monotonic()
        self._free.release()
        self._came.set()

    async def _enough(self) -> bool:
        """Wait until a batch is worth making; False where nothing waits and nothing will come."""
        idle_since = None
        while not self._closed or self._turns.waiting:
            self._came.clear()
            left: float | None = None
            if self._turns.waiting:
                if self._closed or self._turns.waiting >= self.batch_size or self._turns.requests >= self._last:
                    return True
                if not self._busy:
                    now = time.monotonic()
                    idle_since = idle_since or now
                    left = idle_since + self._wait - now if now - self._ended < _AGAIN else 0
                    if left <= 0:
                        return True
            await _first(self._came, left)
        return False

    async def _carry_out(self, parts: Sequence[Part]) -> None:
        """Compute a batch, those apart whose words are cut otherwise."""
        for truncate in dict.fromkeys(part.job.truncate for part in parts):
            same = [part for part in parts if part.job.truncate == truncate]
            items = [item for part in same for item in part.items]
            [found] = await asyncio.gather(self._computed(items, truncate), return_exceptions=True)
            if isinstance(found, BaseException):
                _log.error("a batch failed", exc_info=found)
                for part in same:
                    _refuse(part.job, Refusal(500, "this server failed; tell whoever runs it"))
                continue
            start = 0
            for part in same:
                _give(part, found, start)
                start += len(part.places)

    async def _computed(self, items: Sequence[Item], truncate: bool | None) -> Computed:
        found = await self._ready().batch(items, truncate)
        if found.seconds:
            self._pace.took(len(items), found.seconds)
        self._observe.batch(len(items), sum(found.tokens), found.seconds)
        return found


async def _first(came: asyncio.Event, seconds: float | None) -> None:
    """Wait for an event, for so many seconds at most."""
    if seconds is None:
        await came.wait()
        return
    waiter = asyncio.ensure_future(came.wait())
    await asyncio.wait([waiter], timeout=seconds)
    waiter.cancel()


def _refuse(job: Job, refusal: Refusal) -> None:
    if not job.done.done():
        job.done.set_exception(refusal)


def _give(part: Part, found: Computed, start: int) -> None:
    """Give a request its part of a batch, whose inputs begin at `start` there; it is done with its last part."""
    job, stop = part.job, start + len(part.places)
    job.found.vectors[part.places.start : part.places.stop] = found.vectors[start:stop]
    job.found.tokens[part.places.start : part.places.stop] = found.tokens[start:stop]
    for place, number in enumerate(part.places, start):
        if place in found.broken:
            _refuse(job, Refusal(500, f"input {number}: {found.broken[place]}"))
        if place in found.failures:
            job.found.failures[number] = found.failures[place]
    job.computed += len(part.places)
    if job.computed == len(job.items) and not job.done.done():
        job.done.set_result(job.found)
