"""Several processes that serve behind one port, each with a model of its own, and one process that minds them.

uvicorn's supervisor starts them and starts one again that died. Beside that they have a folder in common: which number
among them is free (a lock a number, which a dead process loses), which have been ready, and what each counts.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from uvicorn.config import STARTUP_FAILURE, Config
from uvicorn.supervisors.multiprocess import SIGNALS, Multiprocess

from ...errors import MLLMEmbedError, ModelError
from ...locks import file_lock
from . import logs
from .metrics import SHARED_FOLDER
from .progress import Progress
from .server import OVERTIME, Loading, Plan, Start, config, leave

if TYPE_CHECKING:
    from fastapi import FastAPI


_LOCKS = ExitStack()  # of this process, until it ends


@dataclass
class Worker:
    """What a worker process runs: makes its application, once it is there.

    Args:
        plan: what to serve.
        folder: what the workers have in common.
    """

    plan: Plan
    folder: Path

    def __call__(self) -> FastAPI:
        """Return the application, which loads its model; before it takes requests, where others answer them."""
        from ..app import bare_app

        logs.configure(self.plan.log)
        _end_with_parent()
        number = self._number()
        mark = self.folder / f"ready-{number}"
        start = Start(Progress(others=lambda: self._all_ready()), worker=number, workers=self.plan.workers)
        loading = Loading(self.plan.load, start, _failed, lambda service: mark.touch(), waiting=self._all_ready())
        return bare_app(self.plan.access, self.plan.limits, start.metrics, start.progress, loading)

    def _all_ready(self) -> bool:
        """Return whether all workers have been ready; one that died since is started again before it takes requests."""
        return len(list(self.folder.glob("ready-*"))) == self.plan.workers

    def _number(self) -> int:
        """Return the first number that no living worker has, and keep it."""
        for number in range(self.plan.workers):
            if _LOCKS.enter_context(file_lock(self.folder / f"worker-{number}")):
                return number
        raise ModelError(f"{self.plan.workers} workers run already")


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, which ends in time."""

    _late: threading.Timer | None = None

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        before = {number: signal.getsignal(number) for number in SIGNALS}
        super().__init__(config, sockets)
        for number, handler in before.items():
            signal.signal(number, self._signalled if number in (signal.SIGINT, signal.SIGTERM) else handler)

    def _signalled(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit.is_set() and sig == signal.SIGINT:
            self._kill(130)
        self.signal_queue.append(sig)

    def handle_int(self) -> None:
        """Begin to end."""
        self.handle_term()

    def handle_term(self) -> None:
        """Let the workers finish what they took, and see that they do."""
        if self._late is None:
            self._late = threading.Timer((self.config.timeout_graceful_shutdown or 0) + 2 * OVERTIME, self._kill, [1])
            self._late.daemon = True
            self._late.start()
        super().handle_term()

    def ended(self) -> None:
        """Take note that its workers have ended, so that the process may live on."""
        if self._late is not None:
            self._late.cancel()

    def _kill(self, code: int) -> None:
        for process in self.processes:
            process.process.kill()
        leave(code)

    def keep_subprocess_alive(self) -> None:
        """Start workers again that died, and count them no more among those that live."""
        from prometheus_client.multiprocess import mark_process_dead

        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        for number in before - {process.pid for process in self.processes}:
            mark_process_dead(number)


def serve_with_workers(plan: Plan, bound: socket.socket) -> None:
    """Serve on a bound socket with several processes until a signal comes.

    Raises:
        ModelError: a worker cannot load the service, and has said why.
    """
    logs.configure(plan.log)
    logging.getLogger("uvicorn.error").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="mllm_embed-serve-") as folder:
        counts = Path(folder, "counts")
        counts.mkdir()
        os.environ[SHARED_FOLDER] = str(counts)  # for the workers, which inherit it
        supervisor = _Supervisor(config(Worker(plan, Path(folder)), plan), [bound])
        supervisor.run()
        supervisor.ended()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise ModelError("a worker cannot load what it is to serve; what it said stands above")


def _failed(error: BaseException) -> None:
    """End a worker that can never serve, so that the supervisor starts no other."""
    if isinstance(error, (MLLMEmbedError, OSError)):
        print(f"error: {error}", file=sys.stderr)
    else:
        logging.getLogger(__name__).error("a worker cannot load", exc_info=error)
    leave(STARTUP_FAILURE)


def _end_with_parent() -> None:
    """End this process in order when its parent is gone, which a kill leaves no time to tell it."""
    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
