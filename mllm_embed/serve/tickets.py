"""Who waits for an answer, until when, and whether somebody is still there to read it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from .refusals import Refusal

if TYPE_CHECKING:
    from starlette.requests import Request

    from .limits import Limits


@dataclass
class Ticket:
    """A request in the service's hands.

    Args:
        client: who sent it: turns are taken among clients.
        deadline: when nobody needs it any more, in seconds of `time.monotonic`.
        seconds: how long it may take in all, for the message.
        gone: whether its client has hung up: what is not begun is dropped.
        pixels: of its pictures so far, as their headers claim.
        fetched: bytes of its pictures so far that came from addresses.
    """

    client: str
    deadline: float
    seconds: float
    gone: bool = False
    pixels: int = 0
    fetched: int = 0

    @classmethod
    def of(cls, client: str, seconds: float) -> Ticket:
        """Return the ticket of a request that comes in now and may take so many seconds."""
        return cls(client, time.monotonic() + seconds, seconds)

    @property
    def left(self) -> float:
        """Seconds that are left, 0 or less where it is late."""
        return self.deadline - time.monotonic()

    def too_late(self) -> Refusal:
        """Return the refusal of a request that took longer than it may."""
        return Refusal(408, f"the request took longer than the limit of {self.seconds:g} seconds; send less at once")

    def dropped(self) -> Refusal:
        """Return the refusal of a request that nobody waits for any more."""
        return Refusal(499, "the client has hung up") if self.gone else self.too_late()


_current: ContextVar[Ticket] = ContextVar("ticket")


def current() -> Ticket:
    """Return the ticket of the request that is being answered, in its threads too (`asyncio.to_thread`).

    Raises LookupError outside of any.
    """
    return _current.get()


@contextmanager
def holding(ticket: Ticket) -> Iterator[Ticket]:
    """Let `current` return a ticket within."""
    token = _current.set(ticket)
    try:
        yield ticket
    finally:
        _current.reset(token)


@asynccontextmanager
async def ticket_for(request: Request, limits: Limits) -> AsyncIterator[Ticket]:
    """Let `current` return the ticket of a request within, and end what is done there when nobody waits for it.

    The request's body is read by then: what comes on its connection afterwards can only be that the client hangs up.
    Its seconds count from here. Raises Refusal 408 when they are over, and 499, which nobody will read, where the
    client has gone.
    """
    ticket = Ticket.of(request.client.host if request.client else "", limits.seconds)
    with anyio.CancelScope(deadline=anyio.current_time() + limits.seconds) as scope, holding(ticket):
        watcher = asyncio.create_task(_watch(request, ticket, scope))
        try:
            yield ticket
        finally:
            watcher.cancel()
    if scope.cancelled_caught:
        raise ticket.dropped()


async def _watch(request: Request, ticket: Ticket, scope: anyio.CancelScope) -> None:
    """Cancel what is done for a request when its client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    ticket.gone = True
    scope.cancel()
