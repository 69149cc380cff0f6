"""What `keep_pages` asks of the allocator, and that it can be switched off."""

from __future__ import annotations

import ctypes
import sys

import pytest

from mllm_embed.encode import memory


class Allocator:
    """A C library that notes what it is asked."""

    gnu_get_libc_version = None

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def mallopt(self, option: int, value: int) -> None:
        self.asked.append((option, value))


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is done elsewhere")
@pytest.mark.parametrize(("value", "asked"), [(None, 2), ("1", 2), ("0", 0)])
def test_pages_are_kept_unless_switched_off(monkeypatch: pytest.MonkeyPatch, value: str | None, asked: int) -> None:
    allocator = Allocator()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: allocator)
    monkeypatch.delenv(memory.KEEP_PAGES, raising=False)
    if value is not None:
        monkeypatch.setenv(memory.KEEP_PAGES, value)
    memory.keep_pages.__wrapped__()  # past the cache: it is done once a process
    assert len(allocator.asked) == asked
