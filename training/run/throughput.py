"""What a run measures between two lines of its log, over all processes."""

from __future__ import annotations

import math
import resource
import sys
import time
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from ..batch.collator import ContrastiveBatch
from ..distributed.gathering import gather_ragged, world

_GIB = 1024**3


class Throughput(TrainerCallback):
    """Adds up what the steps saw, and gives it as the figures of a line of the log.

    A step counts from the moment it asks for its rows until its weights have changed; validations and checkpoints lie
    outside. `unreadable` is a hook: rows of the run so far that this process could not read and replaced.
    """

    def __init__(self, device: torch.device):
        self.device, self.unreadable = device, 0
        self._notes: dict[str, list[Tensor]] = {}
        self._counts = dict.fromkeys(("rows", "tokens", "pictures", "waited", "seconds"), 0.0)
        self._since = 0.0

    def note(self, name: str, value: Tensor) -> None:
        """A scalar of this step; the log gets the mean over steps and processes without the NaN, if any is left."""
        self._notes.setdefault(name, []).append(value.detach())

    def starts(self) -> None:
        self._since = time.perf_counter()

    def has_rows(self) -> None:
        """The rows of the step that started are there."""
        self._counts["waited"] += time.perf_counter() - self._since

    def saw(self, batch: ContrastiveBatch) -> None:
        self._counts["rows"] += len(batch.ids)
        self._counts["tokens"] += batch.tokens
        self._counts["pictures"] += batch.pictures

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._counts["seconds"] += time.perf_counter() - self._since

    def figures(self) -> dict[str, float]:
        """The figures since the last call, the same on every process, all of which must call it.

        rows, tokens (without padding) and pictures; seconds; tokens_per_s, pictures_per_s; data_wait, a share of the
        seconds; memory_gib, the largest peak of a process; unreadable, where it is not 0; and the means of the notes.
        """
        means = [torch.stack(values).double().nanmean().to(self.device) for values in self._notes.values()]
        counts = [*self._counts.values(), float(self.unreadable), peak_gib(self.device)]
        counts = torch.tensor(counts, dtype=torch.float64, device=self.device)
        mine = torch.cat([counts, torch.stack(means)]) if means else counts
        every = torch.stack(gather_ragged(mine)) if world()[1] > 1 else mine[None]
        rows, tokens, pictures, waited, seconds, unreadable = every[:, :6].sum(0).tolist()
        whole = seconds / len(every)
        found = {"rows": int(rows), "tokens": int(tokens), "pictures": int(pictures), "seconds": round(whole, 3)}
        if seconds:
            found["tokens_per_s"], found["pictures_per_s"] = round(tokens / whole, 1), round(pictures / whole, 2)
            found["data_wait"] = round(waited / seconds, 4)
        found["memory_gib"] = round(every[:, 6].max().item(), 3)
        if unreadable:
            found["unreadable"] = int(unreadable)
        averages = zip(self._notes, every[:, 7:].nanmean(0).tolist(), strict=True)
        found |= {name: round(value, 4) for name, value in averages if not math.isnan(value)}
        self._notes.clear()
        self._counts = dict.fromkeys(self._counts, 0.0)
        return found


def peak_gib(device: torch.device) -> float:
    """The most memory so far, in GiB: of a GPU what tensors took, otherwise the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / _GIB


def mean_cosine(vectors: Tensor) -> Tensor:
    """The mean cosine of the pairs of U different vectors, [U, D] L2-normalised -> scalar; NaN for fewer than two.

    From the length of their sum: |sum v|^2 = U + the cosines of all ordered pairs. O(U D), not O(U^2 D).
    """
    count = len(vectors)
    return (vectors.detach().float().sum(0).square().sum() - count) / (count * (count - 1) or float("nan"))
