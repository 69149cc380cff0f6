"""How much memory a piece of work takes, and how it is kept while a CPU computes."""

from __future__ import annotations

import ctypes
import sys
import threading
from functools import cache
from types import TracebackType

import psutil

_EVERY = 0.02  # seconds
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h


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


@cache
def keep_pages() -> None:
    """From now on, memory that is freed stays with the process, up to 2 GiB of it, for whatever it computes next.

    glibc takes each large block from the system and gives it back when it is freed, so that a CPU spends much of its
    time on fresh, zeroed pages: short texts in large batches were embedded at 79 a second so, and at 114 with the pages
    kept (scripts/bench_extract.py, two cores of an Intel Xeon). The allocators that PyTorch's tuning guide recommends,
    jemalloc and tcmalloc, keep them too. Elsewhere than on glibc nothing happens.
    """
    if sys.platform == "linux":
        c = ctypes.CDLL(None)
        if hasattr(c, "gnu_get_libc_version"):
            c.mallopt(_MMAP_MAX, 0)
            c.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
