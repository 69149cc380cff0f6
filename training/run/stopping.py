"""SIGTERM, which schedulers send before they kill: the step is finished, a checkpoint written, and the run ends.

A run that waits for what never comes ends too: the watch sees it from outside, whatever the training is held by.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from ..distributed.gathering import world
from .waiting import RowsWait
from .watch import APART, Watch

EXIT_CODE = 128 + signal.SIGTERM
STOPPED = "stopped by SIGTERM; the same command goes on\n"
GRACE = 15.0  # seconds after SIGTERM that the rows of a step may yet take, and a step that none was as long as
LONGER = 3  # times the longest step so far is how long another may take


class Stopped(BaseException):
    """The run was asked to end; the same command goes on. No Exception, so that nothing takes it for a failure."""


class Stopping(TrainerCallback):
    """The end of a run at SIGTERM: between two steps of training with a checkpoint, elsewhere at once.

    A second SIGTERM, or a step that does not end, ends it at once, with the checkpoint before. So do rows that do not
    come, which `RowsWait.told` tells.
    """

    def __init__(self) -> None:
        """Begin with nobody asking, and outside the training."""
        self.requested = False
        self.rows: RowsWait | None = None  # of the stage under way, where it has worker processes
        self._phase, self._since, self._longest = "outside", 0.0, 0.0
        self._heard: float | None = None
        self._ending = self._must_end = False

    @contextmanager
    def listening(self) -> Iterator[Stopping]:
        """Listen for SIGTERM within; outside the main thread, where Python hears no signals, nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGTERM, self._hear)
        try:
            with Watch(self._asked_to_end, self._end):
                yield self
        finally:
            signal.signal(signal.SIGTERM, before)

    def check(self) -> None:
        """Raise Stopped if the run was asked to end."""
        if self.requested:
            self._stop()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for the rows of a step within. From the first on, a signal waits for the end of a step."""
        self._enter("rows")
        yield
        self._enter("step")

    def _enter(self, phase: str) -> None:
        self._phase, self._since = phase, time.monotonic()

    def _stop(self) -> NoReturn:
        self._ending = True
        if self.rows:
            self.rows.progress.kill()  # first: torch waits for one after the other, five seconds each
        raise Stopped

    def _hear(self, *_: Any) -> None:
        """Hear SIGTERM in the main thread: a user's, or the watch's, which has found that the run must end."""
        now = time.monotonic()
        again = self._heard is not None and now - self._heard > APART
        self._heard = self._heard or now
        if self._ending:  # already, and what is tidied up meanwhile is not disturbed
            return
        if self._must_end or again or self._phase == "outside":
            self._stop()
        self.requested = True

    def _asked_to_end(self, asked: float | None, again: bool) -> bool:
        """Return whether the run must end now; the watch asks."""
        if asked is not None:
            self._must_end = again or time.monotonic() - max(asked, self._since) > self._limit()
        elif self._phase == "rows" and self.rows and not self._ending:
            self._must_end = self.rows.stalled(self._since)
        return self._must_end

    def _limit(self) -> float:
        """Return the seconds after SIGTERM that the phase may take, which a checkpoint or a validation has for ever."""
        if self._phase == "outside":
            return inf if self.requested and not self._ending else GRACE  # a last step's adapter is yet to be saved
        return {"rows": GRACE, "step": max(GRACE, LONGER * self._longest)}.get(self._phase, inf)

    def _end(self) -> None:
        """End the process, whose main thread does not."""
        stall = None
        if self.rows:
            self.rows.progress.kill()
            stall = self.rows.error
        sys.stderr.write(f"error: {stall}\n" if stall else STOPPED)
        sys.stderr.flush()
        os._exit(2 if stall else EXIT_CODE)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Order a checkpoint and the end, if a process was asked to end; after the last step it ends anyway."""
        asked = self._anybody_asked(args.device)
        self._longest = max(self._longest, time.monotonic() - self._since)
        self._enter("between")
        if asked and state.global_step < state.max_steps:
            control.should_save = control.should_log = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """Raise Stopped after the checkpoint; after the last step the stage's adapter comes first."""
        if self.requested and state.global_step < state.max_steps:
            self._stop()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Let a signal end the run at once again."""
        self._enter("outside")

    def _anybody_asked(self, device: torch.device) -> bool:
        """Return whether any process was asked: they hear it at different steps, and must end at the same one."""
        if world()[1] > 1:
            requested = torch.tensor(int(self.requested), device=device)
            dist.all_reduce(requested, op=dist.ReduceOp.MAX)
            self.requested = bool(requested)
        return self.requested
