"""Seconds, operations and bytes on a device: nothing counts before the device has done it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclass
class Row:
    """A line of the table.

    Args:
        what: was measured.
        figure: in words of a table's cell.
        note: what it is to be read with.
        values: the same as numbers, by name, in SI units, for the JSON.
    """

    what: str
    figure: str
    note: str = ""
    values: dict[str, Any] = field(default_factory=dict)


def wait(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device, repeat: int = 1) -> float:
    """Return the seconds of the fastest of `repeat` runs, the device's work included."""
    best = float("inf")
    for _ in range(repeat):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        best = min(best, time.perf_counter() - started)
    return best


def peak_rate(device: torch.device, side: int, dtype: torch.dtype = torch.bfloat16) -> float:
    """Return the operations a second of the product of two square matrices of random numbers, the best of ten."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)
    for _ in range(3):
        torch.mm(a, b, out=out)
    return 2 * side**3 / seconds(lambda: torch.mm(a, b, out=out), device, 10)


def operations(work: Callable[[], object]) -> int:
    """Return the floating-point operations of products and attention in `work`, a product's add counted for itself.

    They are what the kernels are asked for, padding included (torch.utils.flop_counter); other operations count none,
    and neither does attention on a CPU.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@dataclass
class Peak:
    """The most bytes that were alive at once beyond those alive before."""

    bytes: int = 0


@contextmanager
def peak_bytes(device: torch.device) -> Iterator[Peak]:
    """Measure what is done within: on a GPU by its allocator, elsewhere operation by operation, which takes time."""
    peak = Peak()
    if device.type != "cuda":
        from mllm_embed.training.distributed.memory_tracker import MemoryTracker

        with MemoryTracker() as live:
            yield peak
        peak.bytes = live.peak
        return
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield peak
    wait(device)
    peak.bytes = torch.cuda.max_memory_allocated(device) - before


def tera(rate: float) -> str:
    """Return a rate in TFLOP/s, with as many digits as tell."""
    return f"{rate / 1e12:,.0f} TFLOP/s" if rate >= 1e13 else f"{rate / 1e12:.3g} TFLOP/s"
