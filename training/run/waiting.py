"""The wait for rows that worker processes make: it notices that they have died, and that they do not go on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mllm_embed.errors import ConfigError, DataError

from ..batch.progress import Progress
from .checkpoints import last_checkpoint

STALL = 300.0  # seconds without any worker beginning anything; a picture takes milliseconds, a batch's input a minute


class RowsWait:
    """The wait of a stage for its rows.

    Args:
        progress: of the workers.
        name: gives a row's id and source by its place.
        home: the stage's folder of checkpoints.
    """

    def __init__(self, progress: Progress, name: Callable[[int], tuple[str, str]], home: Path):
        self.progress, self.name, self.home = progress, name, home
        self.error: DataError | None = None

    def stalled(self, since: float) -> bool:
        """Return whether the wait from `since` (`time.monotonic`) on has no end; `error` then says so."""
        if time.monotonic() - max(since, self.progress.last()) > STALL:
            self.error = DataError(self._stopped(self._what_stalled()))
        return self.error is not None

    @contextmanager
    def told(self) -> Iterator[None]:
        """Within, tell of a worker that died or stands still, and leave none behind where anything goes wrong.

        Raises ConfigError for one that died, DataError for one that stands still.
        """
        try:
            yield
        except BaseException as error:
            self.progress.kill()
            if self.error:
                raise self.error from error
            death = _death(error)
            if death:
                raise ConfigError(self._stopped(_how_it_died(death))) from error
            raise

    def _what_stalled(self) -> str:
        readings = self.progress.readings()
        if readings:
            row, source = self.name(readings[0].place)
            return f"has been at row '{row}' of {source} for {STALL:,.0f} s; look at the disk that its pictures lie on,"
        return f"has handed over nothing for {STALL:,.0f} s; look at what else the machine does,"

    def _stopped(self, why: str) -> str:
        last = last_checkpoint(self.home)
        where = last.name if last else "the start of the stage"
        return (
            f"stage '{self.home.name}' stopped: a worker process {why} and start the same command again: it goes on "
            f"from {where}"
        )


def _death(error: BaseException | None) -> str | None:
    """Return what torch says of a worker that died, None where none did: wherever it says so, others may follow."""
    while error is not None:
        if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
            return str(error)
        error = error.__context__
    return None


def _how_it_died(message: str) -> str:
    """Return what torch says of a worker's death, and the cure."""
    found = re.search(r"\d\) (?:is )?([^.]*)", message)
    return (
        f"died ({found[1].strip() if found else message}), for want of memory as a rule; lower workers or batch_size,"
    )
