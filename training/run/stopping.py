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
    """Ends a run at SIGTERM: between two steps of training with a checkpoint, elsewhere at once."""

    def __init__(self) -> None:
        self.asked = self.stepping = False

    @contextmanager
    def listening(self) -> Iterator[Stopping]:
        """Within, SIGTERM is heard; outside the main thread, where Python hears no signals, nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGTERM, self._hear)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)

    def _hear(self, *_: Any) -> None:
        self.asked = True
        if not self.stepping:
            raise Stopped

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.stepping = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._anybody_asked(args.device) and state.global_step < state.max_steps:
            control.should_save = control.should_log = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """Raises Stopped after the checkpoint; after the last step the stage's adapter comes first."""
        if self.asked and state.global_step < state.max_steps:
            self.stepping = False
            raise Stopped

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.stepping = False

    def _anybody_asked(self, device: torch.device) -> bool:
        """The processes hear it at different steps, and must end at the same one."""
        if world()[1] > 1:
            asked = torch.tensor(int(self.asked), device=device)
            dist.all_reduce(asked, op=dist.ReduceOp.MAX)
            self.asked = bool(asked)
        return self.asked
