"""The figures of a run between two lines of its log, over all processes."""

from __future__ import annotations

import math
import resource
import sys
import time
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import TrainerCallback

from ..batch.examples import UnreadableRow
from ..distributed.gathering import gather_ragged, world

_GIB = 1024**3


class StepBatch(Protocol):
    """What a step of any kind trains on."""

    @property
    def ids(self) -> list[str]:
        """The ids of its rows."""

    @property
    def tokens(self) -> int:
        """The tokens of its inputs, without padding."""

    @property
    def pictures(self) -> int:
        """How many pictures they hold."""

    @property
    def unreadable(self) -> tuple[UnreadableRow, ...]:
        """Rows that could not be read, whose place others took."""


class Throughput(TrainerCallback):
    """The sums of what the steps computed, which become the figures of a line of the log.

    A step counts from the moment it asks for its rows until its weights have changed; validations and checkpoints lie
    outside. `unreadable` is set from outside: rows of the run so far that this process could not read and replaced.
    """

    def __init__(self, device: torch.device):
        """Count from 0; `device` is that of the training, whose memory is looked at."""
        self.device, self.unreadable = device, 0
        self._values: dict[str, list[Tensor]] = {}
        self._counts = dict.fromkeys(("rows", "tokens", "pictures", "waited", "seconds"), 0.0)
        self._since = 0.0

    def add_value(self, name: str, value: Tensor) -> None:
        """Add a scalar of this step; the log gets the mean over steps and processes without the NaN, if any is left."""
        self._values.setdefault(name, []).append(value.detach())

    def start_step(self) -> None:
        """Start the clock: the step now asks for its rows."""
        self._since = time.perf_counter()

    def rows_arrived(self) -> None:
        """Count the time since `start_step` as waiting for data."""
        self._counts["waited"] += time.perf_counter() - self._since

    def add_batch(self, batch: StepBatch) -> None:
        """Count a batch's rows, tokens and pictures."""
        self._counts["rows"] += len(batch.ids)
        self._counts["tokens"] += batch.tokens
        self._counts["pictures"] += batch.pictures

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Count the time since `start_step` as the step's."""
        self._counts["seconds"] += time.perf_counter() - self._since

    def figures(self) -> dict[str, float]:
        """Return the figures since the last call, the same on every process, all of which must call it.

        rows, tokens (without padding) and pictures; seconds; tokens_per_s, pictures_per_s; data_wait, a share of the
        seconds; memory_gib, the largest peak of a process; unreadable, where it is not 0; and the means of the values.
        """
        every = self._of_all_processes()
        rows, tokens, pictures, waited, seconds, unreadable = every[:, :6].sum(0).tolist()
        whole = seconds / len(every)
        figures = {"rows": int(rows), "tokens": int(tokens), "pictures": int(pictures), "seconds": round(whole, 3)}
        if seconds:
            figures["tokens_per_s"], figures["pictures_per_s"] = round(tokens / whole, 1), round(pictures / whole, 2)
            figures["data_wait"] = round(waited / seconds, 4)
        figures["memory_gib"] = round(every[:, 6].max().item(), 3)
        if unreadable:
            figures["unreadable"] = int(unreadable)
        averages = zip(self._values, every[:, 7:].nanmean(0).tolist(), strict=True)
        figures |= {name: round(value, 4) for name, value in averages if not math.isnan(value)}
        self._values.clear()
        self._counts = dict.fromkeys(self._counts, 0.0)
        return figures

    def _of_all_processes(self) -> Tensor:
        """Return a row a process, float64: rows, tokens, pictures, waited, seconds, unreadable, GiB, and the means."""
        sums = [*self._counts.values(), float(self.unreadable), peak_gib(self.device)]
        counts = torch.tensor(sums, dtype=torch.float64, device=self.device)
        means = [torch.stack(values).double().nanmean().to(self.device) for values in self._values.values()]
        local = torch.cat([counts, torch.stack(means)]) if means else counts
        return torch.stack(gather_ragged(local)) if world()[1] > 1 else local[None]


def peak_gib(device: torch.device) -> float:
    """Return the most memory so far, in GiB: of a GPU what tensors took, otherwise the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / _GIB  # bytes there, KiB elsewhere


def mean_cosine(vectors: Tensor) -> Tensor:
    """Return the mean cosine of the pairs of U vectors, [U, D] L2-normalised -> scalar float32; NaN for fewer than two.

    From the length of their sum: |sum v|^2 = U + the cosines of all ordered pairs. O(U D), not O(U^2 D).
    """
    count = len(vectors)
    return (vectors.detach().float().sum(0).square().sum() - count) / (count * (count - 1) or float("nan"))
