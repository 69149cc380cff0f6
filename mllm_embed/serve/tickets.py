"""Who waits for an answer, until when, and whether somebody is still there to read it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from .refusals import Refusal


@dataclass
class Ticket:
    """A request in the service's hands.

    Args:
        client: who sent it: turns are taken among clients.
        deadline: when nobody needs it any more, in seconds of `time.monotonic`.
        seconds: how long it may take in all, for the message.
        gone: whether its client has hung up: what is not begun is dropped.
        pixels: of its pictures so far, as their headers claim.
    """

    client: str
    deadline: float
    seconds: float
    gone: bool = False
    pixels: int = 0

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
