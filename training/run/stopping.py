"""SIGTERM, which schedulers send before they kill: the step is finished, a checkpoint written, and the run ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from ..distributed.gathering import world

EXIT_CODE = 128 + signal.SIGTERM


class Stopped(BaseException):
    """The run was asked to end; the same command goes on. No Exception, so that nothing takes it for a failure."""


class Stopping(TrainerCallback):
    """The end of a run at SIGTERM: between two steps of training with a checkpoint, elsewhere at once."""

    def __init__(self) -> None:
        """Begin with nobody asking, and outside the training."""
        self.requested = self.stepping = False

    @contextmanager
    def listening(self) -> Iterator[Stopping]:
        """Listen for SIGTERM within; outside the main thread, where Python hears no signals, nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGTERM, self._hear)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)

    def check(self) -> None:
        """Raise Stopped if the run was asked to end."""
        if self.requested:
            raise Stopped

    def _hear(self, *_: Any) -> None:
        self.requested = True
        if not self.stepping:
            raise Stopped

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Let a signal wait for the end of a step from here on."""
        self.stepping = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Order a checkpoint and the end, if a process was asked to end; after the last step it ends anyway."""
        if self._anybody_asked(args.device) and state.global_step < state.max_steps:
            control.should_save = control.should_log = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """Raise Stopped after the checkpoint; after the last step the stage's adapter comes first."""
        if self.requested and state.global_step < state.max_steps:
            self.stepping = False
            raise Stopped

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Let a signal end the run at once again."""
        self.stepping = False

    def _anybody_asked(self, device: torch.device) -> bool:
        """Return whether any process was asked: they hear it at different steps, and must end at the same one."""
        if world()[1] > 1:
            requested = torch.tensor(int(self.requested), device=device)
            dist.all_reduce(requested, op=dist.ReduceOp.MAX)
            self.requested = bool(requested)
        return self.requested
