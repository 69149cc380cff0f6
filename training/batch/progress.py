"""What each worker process does at the moment: the training process looks here while it waits for rows."""

from __future__ import annotations

import multiprocessing
import os
import time
from contextlib import suppress
from typing import NamedTuple

_FIELDS = 3  # of a worker: its process, the place of the row, since when
_HANDED_OVER = -1
_DYING = 5.0  # seconds


class Reading(NamedTuple):
    """A worker's process, the place of the row that it has begun last, and when that was (`time.monotonic`)."""

    process: int
    place: int
    since: float


class Progress:
    """The row that each of a process's workers is at. Workers write, the process reads; there is no lock to hang on."""

    def __init__(self, workers: int):
        """Make room for so many workers, in memory that they share with this process."""
        self._slots = multiprocessing.RawArray("d", workers * _FIELDS)

    def begins(self, worker: int, place: int) -> None:
        """Note in a worker that it begins to read the row at `place`."""
        self._slots[worker * _FIELDS : (worker + 1) * _FIELDS] = [os.getpid(), place, time.monotonic()]

    def handed_over(self, worker: int) -> None:
        """Note in a worker that its batch is made."""
        self.begins(worker, _HANDED_OVER)

    def last(self) -> float:
        """Return when a worker last began anything (`time.monotonic`), 0 where none has."""
        return max((self._slots[at] for at in range(2, len(self._slots), _FIELDS)), default=0.0)

    def readings(self) -> list[Reading]:
        """Return what workers have begun and not handed over, the one that has been at it longest first."""
        found = []
        for at in range(0, len(self._slots), _FIELDS):
            process, place, since = self._slots[at : at + _FIELDS]
            if process and place != _HANDED_OVER:
                found.append(Reading(int(process), int(place), since))
        return sorted(found, key=lambda reading: reading.since)

    def kill(self) -> None:
        """End the workers that still run: they ignore SIGTERM, and one that hangs hears nothing else."""
        known = {int(self._slots[at]) for at in range(0, len(self._slots), _FIELDS)}
        for _ in range(2):  # torch hears of the death of a child, and raises, once
            with suppress(RuntimeError):
                for worker in multiprocessing.active_children():
                    if worker.pid in known:
                        worker.kill()
                        worker.join(_DYING)
