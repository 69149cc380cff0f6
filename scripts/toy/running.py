"""A training in phases that can be stopped at any time and ends with the same bytes.

All that a step depends on is saved: weights in float32, throw-away heads, the optimisers' moments, and the step, from
which its batch follows.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

WARMUP = 100  # steps
SMOOTH = 0.95  # share of the mean that stays, of a figure of the log, at each step
LEAST = 0.02  # of the rate, at the end
Figures = dict[str, float]


class Phase(Protocol):
    """A part of the training: some parameters, and a loss at each step."""

    steps: int
    heads: nn.Module  # thrown away at the end

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return new optimisers of what is trained, heads included, at their peak rates."""

    def batch(self, step: int) -> Any:
        """Return the batch of a step, which follows from the step alone."""

    def loss(self, batch: Any) -> tuple[Tensor, Figures]:
        """Return the loss of a batch, and figures for the log."""


@dataclass
class State:
    """Where a training stands: its phase, the steps and seconds in it, and the running means of the log's figures."""

    phase: str = ""
    step: int = 0
    seconds: float = 0.0
    means: Figures = field(default_factory=dict)


class Training:
    """Phases of one model, one after the other, from the saved state on when there is one.

    Args:
        model: what is trained, in float32.
        phases: makers of the phases by name; each is called when its turn comes.
        saved: a file that `save` wrote; it may be absent.
        seed: of the heads' first weights.
    """

    def __init__(self, model: nn.Module, phases: dict[str, Callable[[], Phase]], saved: Path, seed: int):
        self.model, self.state = model, State()
        self._makers, self._saved, self._seed = phases, saved, seed
        self._heads: nn.Module = nn.Module()
        self._optimizers: list[torch.optim.Optimizer] = []

    def run(self) -> Iterator[tuple[State, int]]:
        """Train; yields the state after each step, and the steps of its phase."""
        saved = self._read() if self._saved.is_file() else {}
        names = list(self._makers)
        for name in names[names.index(self.state.phase) if saved else 0 :]:
            if not saved:
                self.state = State(name)
            torch.manual_seed(self._seed + 1 + names.index(name))
            phase = self._makers[name]()
            self._heads, self._optimizers = phase.heads, phase.optimizers()
            if saved:
                self._restore(saved)
                saved = {}
            peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self._optimizers]
            started = time.monotonic() - self.state.seconds
            with ahead(phase.batch, self.state.step, phase.steps) as batches:
                for batch in batches:
                    self._set_rates(peaks, rate(self.state.step, phase.steps))
                    self._step(*phase.loss(batch))
                    self.state.seconds = time.monotonic() - started
                    yield self.state, phase.steps

    def _set_rates(self, peaks: list[list[float]], share: float) -> None:
        for optimizer, rates in zip(self._optimizers, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = peak * share

    def _step(self, loss: Tensor, figures: Figures) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for o in self._optimizers for g in o.param_groups for p in g["params"]], 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        means = self.state.means
        for name, value in figures.items():
            means[name] = SMOOTH * means.get(name, value) + (1 - SMOOTH) * value
        self.state.step += 1

    def save(self, path: Path) -> None:
        """Write all that the next step depends on."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"heads.{name}": value for name, value in self._heads.state_dict().items()}
        for number, optimizer in enumerate(self._optimizers):
            for at, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{number}.{at}.{key}": value for key, value in values.items()}
        # tied weights lie in one memory, which safetensors refuses
        apart = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
        save_file(apart, path, metadata={"state": json.dumps(asdict(self.state))})

    def _read(self) -> dict[str, Tensor]:
        with safe_open(self._saved, "pt") as file:
            self.state = State(**json.loads(file.metadata()["state"]))
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping

    def _restore(self, saved: dict[str, Tensor]) -> None:
        self.model.load_state_dict(_under(saved, "model."))
        self._heads.load_state_dict(_under(saved, "heads."))
        for number, optimizer in enumerate(self._optimizers):
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in _under(saved, f"optimizer.{number}.").items():
                at, _, key = name.partition(".")
                moments.setdefault(int(at), {})[key] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def rate(step: int, steps: int) -> float:
    """Return the share of its peak that a rate has: a warm-up, then a cosine down to 2 %."""
    return min(1, (step + 1) / WARMUP) * (LEAST + (1 - LEAST) * 0.5 * (1 + math.cos(math.pi * step / steps)))


class ahead:
    """Within a `with`, the batches of some steps in order, made in a thread while the model computes."""

    def __init__(self, batch: Callable[[int], Any], start: int, stop: int, depth: int = 4):
        self._batch, self._steps = batch, range(start, stop)
        self._queue: Queue = Queue(depth)
        self._over = Event()

    def __enter__(self) -> Iterator[Any]:
        """Begin, and return the batches."""
        Thread(target=self._fill, daemon=True).start()
        return self._batches()

    def __exit__(self, *_: object) -> None:
        """Let the thread end."""
        self._over.set()
        while not self._queue.empty():
            self._queue.get_nowait()

    def _fill(self) -> None:
        for step in self._steps:
            try:
                made, error = self._batch(step), None
            except BaseException as raised:  # handed over, whatever it is
                made, error = None, raised
            self._queue.put((made, error))
            if error is not None or self._over.is_set():
                return

    def _batches(self) -> Iterator[Any]:
        for _ in self._steps:
            made, error = self._queue.get()
            if error is not None:
                raise error
            yield made
