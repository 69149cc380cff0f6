"""The memory that a piece of work takes, and freed memory that is kept while a CPU computes.

`keep_pages` changes the memory allocator of the whole process, not of this library alone. `MLLMEmbedder.execute`, and
so `encode`, calls it when it first computes on a CPU. Set the environment variable MLLM_EMBED_KEEP_PAGES=0 before that
to leave the allocator alone.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from functools import cache
from types import TracebackType

import psutil

KEEP_PAGES = "MLLM_EMBED_KEEP_PAGES"
_EVERY = 0.02  # seconds
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h


class PeakMemory:
    """The most memory in bytes that this process holds of its own within a `with`; files that it maps do not count,
    since the system may drop them.

    `bytes` is known afterwards. It is looked at fifty times a second, so that shorter peaks may be missed.
    """

    def __init__(self) -> None:
        """Measure nothing yet; the `with` does."""
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _measure(self) -> None:
        process = psutil.Process()
        while not self._done.wait(_EVERY):
            held = process.memory_info()
            self.bytes = max(self.bytes, held.rss - getattr(held, "shared", 0))


@cache
def keep_pages() -> None:
    """Keep memory that is freed with the process, up to 2 GiB of it, from now on and for all that the process does.

    It sets glibc's allocator for the whole process (mallopt: no mmap for large blocks, no trimming), once and for good;
    with the environment variable MLLM_EMBED_KEEP_PAGES=0 it does nothing.

    glibc takes each large block from the system and gives it back when it is freed, so that a CPU spends much of its
    time on fresh, zeroed pages: short texts in large batches were embedded at 79 a second so, and at 114 with the pages
    kept (scripts/bench_extract.py, two cores of an Intel Xeon). The allocators that PyTorch's tuning guide recommends,
    jemalloc and tcmalloc, keep them too. Elsewhere than on glibc nothing happens.
    """
    if sys.platform != "linux" or os.environ.get(KEEP_PAGES) == "0":
        return
    c = ctypes.CDLL(None)
    if hasattr(c, "gnu_get_libc_version"):  # musl has no mallopt that does anything
        c.mallopt(_MMAP_MAX, 0)
        c.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
