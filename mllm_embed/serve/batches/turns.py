"""Whose inputs are computed next: clients take turns, and so do the requests of one client.

A turn is a few inputs. So a request of one or two is taken whole, and one of hundreds is taken in parts, between which
others come; nobody waits for all of somebody else's. A proxy makes one client of everybody behind it, which is why the
requests of one client take turns too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...types import Item
from ..tickets import Ticket


@dataclass
class Embedded:
    """What became of the inputs of a request.

    Args:
        vectors: [N, width] float32, whole and of unit length; 0 for an input that cannot be embedded.
        tokens: of each input, those of its prompt and pictures among them; 0 for one that cannot be embedded.
        failures: why inputs cannot be embedded, by their places, in words that may be shown to whoever sent them.
    """

    vectors: np.ndarray
    tokens: list[int]
    failures: dict[int, str]

    @classmethod
    def of(cls, inputs: int, width: int) -> Embedded:
        """Return a place for so many inputs, which are not computed yet."""
        return cls(np.zeros((inputs, width), np.float32), [0] * inputs, {})


@dataclass(eq=False)
class Job:
    """A request that waits.

    Args:
        ticket: who waits for it, and until when.
        items: its inputs.
        truncate: whether words over the model's limit are cut; None is as the model has it.
        done: becomes what came of it.
        found: what is known of that by now.
        taken: how many of its inputs have had their turn.
        computed: how many of those are done.
    """

    ticket: Ticket
    items: Sequence[Item]
    truncate: bool | None
    done: asyncio.Future[Embedded]
    found: Embedded
    taken: int = 0
    computed: int = 0

    @property
    def left(self) -> int:
        """How many of its inputs wait for their turn."""
        return len(self.items) - self.taken

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it, in time."""
        return not (self.done.done() or self.ticket.gone or self.ticket.left <= 0)


@dataclass(frozen=True)
class Part:
    """Inputs of a request that are computed at once: those at these places."""

    job: Job
    places: range

    @property
    def items(self) -> Sequence[Item]:
        """The inputs."""
        return self.job.items[self.places.start : self.places.stop]


@dataclass
class Turns:
    """The requests that wait.

    Args:
        turn: the most inputs of one request that are taken before others have their turn.
    """

    turn: int = 8
    waiting: int = 0
    """Inputs that wait, of all requests."""
    _lines: dict[str, deque[Job]] = field(default_factory=dict)  # of each client; whose turn is next stands first

    @property
    def requests(self) -> int:
        """How many requests wait, for their first turn or for another."""
        return sum(map(len, self._lines.values()))

    def put(self, job: Job) -> None:
        """Let a request wait behind those that are there."""
        self._lines.setdefault(job.ticket.client, deque()).append(job)
        self.waiting += job.left

    def drop(self, job: Job) -> None:
        """Let a request wait no longer; nothing happens where it does not."""
        line = self._lines.get(job.ticket.client, deque())
        if job.left and job in line:
            line.remove(job)
            self.waiting -= job.left
        if not line:
            self._lines.pop(job.ticket.client, None)

    def unwanted(self) -> list[Job]:
        """Drop the requests that nobody waits for any more, and return them."""
        found = [job for line in self._lines.values() for job in line if not job.wanted]
        for job in found:
            self.drop(job)
        return found

    def take(self, most: int) -> list[Part]:
        """Take as many inputs as are computed at once, in turns: each time those of the request that waits longest, of
        the client that waits longest."""
        parts: list[Part] = []
        while most and self._lines:
            client = next(iter(self._lines))
            line = self._lines.pop(client)
            part = self._part(line.popleft(), most)
            parts.append(part)
            most -= len(part.places)
            if part.job.left:
                line.append(part.job)
            if line:
                self._lines[client] = line  # behind the others
        return parts

    def _part(self, job: Job, most: int) -> Part:
        places = range(job.taken, job.taken + min(self.turn, most, job.left))
        job.taken = places.stop
        self.waiting -= len(places)
        return Part(job, places)
