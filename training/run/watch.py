"""A thread that watches a run from outside, and ends it where it cannot end itself."""

from __future__ import annotations

import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

APART = 0.5  # seconds from which on a second SIGTERM is one: launchers pass the same one on in several ways
DYING = 12.0  # seconds that a run has to end once it must
AT_ONCE = 3.0  # the same, after a second SIGTERM
_EVERY = 0.25  # seconds between two looks


class Watch:
    """A watch over what a `with` holds, in the main thread: it asks whether that must end now, and sees to it.

    Python's handlers of signals run between two of the main thread's own instructions. A thread that waits in a
    collective call, or in a read that never returns, comes to none: SIGTERM is therefore heard here too, and a run
    that has not left the `with` DYING seconds after it must is ended from here.

    Args:
        must_end: told when SIGTERM came (`time.monotonic`; None before) and whether it came a second time, says whether
            the run must end.
        end: ends the process.
    """

    def __init__(self, must_end: Callable[[float | None, bool], bool], end: Callable[[], None]):
        self._must_end, self._end = must_end, end
        self._read, self._write = socket.socketpair()
        self._done = threading.Event()
        self._main = threading.main_thread()
        self._asked: float | None = None
        self._ordered: float | None = None
        self._again = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="watch")

    def __enter__(self) -> Watch:
        for end in (self._read, self._write):
            end.setblocking(False)
        self._before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        signal.set_wakeup_fd(self._before)
        self._thread.join()
        self._read.close()
        self._write.close()

    def _run(self) -> None:
        while not self._done.is_set():
            self._hear()
            if self._ordered is None and self._must_end(self._asked, self._again):
                self._ordered = time.monotonic()
                signal.pthread_kill(self._main.ident or 0, signal.SIGTERM)  # takes it out of a wait that can be left
            if self._ordered and time.monotonic() - self._ordered > (AT_ONCE if self._again else DYING):
                self._end()

    def _hear(self) -> None:
        """Wait a moment, and note whether SIGTERM comes meanwhile; once the run must end, it may be our own."""
        ready, _, _ = select.select([self._read], [], [], _EVERY)
        if not ready or signal.SIGTERM not in self._read.recv(4096):
            return
        if self._asked is None:
            self._asked = time.monotonic()
        elif self._ordered is None:
            self._again = self._again or time.monotonic() - self._asked > APART
