"""A process of its own for each model: what it held is free when it ends, and a crash or a kill ends it alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import connection, parent_process

from .measuring import Event, ModelWork, measure_model

_STOPPED = 130  # as a shell has it for Ctrl-C


def in_own_process(work: ModelWork, hear: Callable[[Event], None]) -> str:
    """Do the work of a model in a process of its own, which ends with this one.

    Args:
        work: to be done.
        hear: is called with what the process tells, in this one.

    Returns:
        How it ended in words, "" for in order.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads, or a GPU, may hang
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, sending))
    process.start()
    sending.close()  # the process alone holds it, so that its end is the end of what can be heard
    try:
        while True:
            try:
                hear(receiving.recv())
            except EOFError:
                break
        process.join()
    finally:
        if process.is_alive():
            process.terminate()
            process.join()
        receiving.close()
    return _end(process.exitcode or 0)


def _work(work: ModelWork, sending: connection.Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with sending:
            measure_model(work, sending.send)
    except (KeyboardInterrupt, BrokenPipeError) as error:  # nobody is left to tell
        raise SystemExit(_STOPPED) from error


def _end_with_parent() -> None:
    """End this process when its parent is gone, which a kill leaves no time to tell it."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(_STOPPED)


def _end(code: int) -> str:
    """Return how a process ended, in words; "" where in order."""
    if not code:
        return ""
    if code < 0:
        name = signal.Signals(-code).name
        memory = ", as a system does that has no memory left" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}"
    return f"its process ended with code {code}; its last words stand in the terminal"
