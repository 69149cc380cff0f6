"""How much memory a piece of work takes."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

_EVERY = 0.02  # seconds


class PeakMemory:
    """Within, the most memory that this process holds of its own; files that it maps, which the system may drop, not.

    `bytes` is known afterwards. It is looked at fifty times a second, so that shorter peaks may be missed.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._done.wait(_EVERY):
            held = process.memory_info()
            self.bytes = max(self.bytes, held.rss - getattr(held, "shared", 0))
