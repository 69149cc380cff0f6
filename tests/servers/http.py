"""An application behind HTTP on a free port of this machine, for as long as a test needs it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

PATIENCE = 60  # seconds: a busy machine takes its time


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    port: int
    server: uvicorn.Server

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running(app: Any, **options: Any) -> Iterator[Running]:
    """Answer for an application, and end it as SIGTERM would; `options` are uvicorn's."""
    # of TCP by name, or else asyncio leaves Nagle's delay of 40 ms in it
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    port: int = listening.getsockname()[1]
    usual = {"log_level": "critical", "ws": "none", "timeout_keep_alive": PATIENCE, "timeout_graceful_shutdown": 10}
    server = uvicorn.Server(uvicorn.Config(app, **{**usual, **options}))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
    try:
        yield Running(port, server)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()
    if thread.is_alive():
        raise RuntimeError("the server did not end")
