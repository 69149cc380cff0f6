"""One process that serves: the port answers at once, the model is loaded meanwhile, and a signal ends it in order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import uvicorn

from ...errors import ConfigError, reason
from ..guards.protocol import GuardedProtocol
from . import logs
from .metrics import Metrics
from .progress import Progress

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..access import Access
    from ..limits import Limits
    from ..service import Service

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass
class Start:
    """What a service is made for.

    Args:
        progress: is told what is being done.
        metrics: what the service counts with.
        worker: the number of the process among those that share a port, from 0.
        workers: how many they are.
    """

    progress: Progress = field(default_factory=Progress)
    metrics: Metrics = field(default_factory=Metrics)
    worker: int = 0
    workers: int = 1


Load = Callable[[Start], "Service"]
"""What makes the service, which may take minutes."""
_BACKLOG = 2048
_KEEP_ALIVE = 75  # seconds; longer than clients and proxies keep a connection, so that they close it first
OVERTIME = 5.0  # seconds after the last answer is due, for what is neither finished nor gone then


@dataclass
class Plan:
    """What is to be served.

    Args:
        load: makes the service; with several workers it goes to other processes, so that it can be pickled.
        access: who may ask.
        limits: what a request may cost.
        log: the form of what is written down, one of `logs.FORMS`.
        workers: processes.
    """

    load: Load
    access: Access
    limits: Limits
    log: str = "json"
    workers: int = 1


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address, whose port the system chooses where it is 0.

    Raises:
        ConfigError: the address is none of this machine, or taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host} is no address ({reason(error)}); give one of this machine") from error
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        # an address that was just let go of can be taken at once, as after a restart
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)  # now, since of two that bind alike the second learns it here
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"{host}:{port} cannot be listened on ({reason(error)}); give another --port, or 0 for a free one"
        ) from error
    return bound


def config(app: Callable[[], FastAPI], plan: Plan) -> uvicorn.Config:
    """Return the settings of the HTTP server for an application that it makes."""
    return uvicorn.Config(
        app,
        factory=True,
        workers=plan.workers,
        http=GuardedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,  # logs.configure
        access_log=False,  # logs.RequestLog
        proxy_headers=False,  # anyone can write them: clients are told apart by their address
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(plan.limits.seconds) + 1,
        timeout_worker_healthcheck=60,  # reading weights may keep an interpreter for itself that long
        backlog=_BACKLOG,
    )


@dataclass
class Loading:
    """The lifespan of an application: loads a service beside the event loop, and closes it.

    Args:
        load: makes the service.
        start: what for.
        failed: is told why the service could not be loaded.
        ready: is told the service when it is there.
        waiting: whether no request is taken before.
    """

    load: Load
    start: Start
    failed: Callable[[BaseException], None]
    ready: Callable[[Service], None]
    waiting: bool = False

    @asynccontextmanager
    async def __call__(self, app: FastAPI) -> AsyncIterator[None]:
        """Load the service while the application runs."""
        began = time.monotonic()

        def loaded(task: asyncio.Task[Service]) -> None:
            error = task.exception()
            if error is not None:
                self.failed(error)
                return
            service = app.state.service = task.result()
            service.start()
            self.start.progress.doing = None
            logs.say("ready", model=service.model_name, seconds=round(time.monotonic() - began, 1))
            self.ready(service)

        task = asyncio.create_task(asyncio.to_thread(self.load, self.start))
        task.add_done_callback(loaded)
        if self.waiting:
            await asyncio.wait([task])
        yield
        if not task.done():
            logs.say("stopped while loading")
            leave(0)  # a thread that reads weights cannot be told to stop
        if task.exception() is None:
            await task.result().close()


class Server(uvicorn.Server):
    """uvicorn's server, which ends in time, and with 0 where it was told to end."""

    failure: BaseException | None = None
    _late: threading.Timer | None = None

    def fail(self, error: BaseException) -> None:
        """End, since the service cannot be loaded; `serve` raises the error."""
        self.failure, self.should_exit = error, True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end at the first signal; end at once at a second Ctrl-C."""
        if self.should_exit and sig == signal.SIGINT:
            leave(130)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was taken, in the seconds of a request and a few more."""
        logs.say("stopping")
        self._late = threading.Timer((self.config.timeout_graceful_shutdown or 0) + OVERTIME, leave, [1])
        self._late.daemon = True
        self._late.start()
        await super().shutdown(sockets)

    def ended(self) -> None:
        """Take note that nothing of it runs any more, so that the process may live on."""
        if self._late is not None:
            self._late.cancel()


def serve(plan: Plan, bound: socket.socket, ready: Callable[[Service], None]) -> NoReturn:
    """Serve on a bound socket until a signal comes, and end the process; `ready` is told when the service is loaded.

    What was taken is finished, within the seconds of a request. A second Ctrl-C ends at once.

    Raises whatever keeps the service from being loaded.
    """
    from ..app import bare_app

    logs.configure(plan.log)
    start = Start()
    loading = Loading(plan.load, start, lambda error: server.fail(error), ready)
    server = Server(config(lambda: bare_app(plan.access, plan.limits, start.metrics, start.progress, loading), plan))

    def before_and_after(sig: int, frame: FrameType | None) -> None:
        # uvicorn listens to signals while it serves, and raises them again when it has ended
        if not server.should_exit:
            server.handle_exit(sig, frame)

    for number in _SIGNALS:
        signal.signal(number, before_and_after)
    server.run([bound])
    server.ended()
    if server.failure is not None:
        raise server.failure
    leave(0)  # all is closed: to take a model's process apart would take seconds, of the few that a container is given


def leave(code: int) -> NoReturn:
    """End the process without waiting for its threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
