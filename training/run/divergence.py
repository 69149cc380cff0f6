"""Stops a run that has gone wrong, in one sentence, before its weights change or a checkpoint keeps the damage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from mllm_embed.errors import ModelError

from ..batch.collator import ContrastiveBatch
from ..distributed.gathering import GatheredBatch
from ..recipe.config import Stage, Term
from .checkpoints import last_checkpoint

PATIENCE = 10  # steps one after the other that must look collapsed
SHRUNK = 0.1  # share of the vectors' first spread that a collapse leaves at most
_SHOWN = 5


class DivergenceGuard(TrainerCallback):
    """Looks at every step of a stage; every method raises ModelError where the run must stop.

    Non-finite numbers stop it at once. Vectors have collapsed when, for PATIENCE steps after the warm-up, their mean
    cosine lies above the stage's `max_cosine`, and its distance from 1 is less than SHRUNK of that at the first step:
    inputs that look alike to an untrained model (short texts of one kind may) are no collapse. No checkpoint is written
    while it looks so, and thus the last one is from before.
    """

    def __init__(self, stage: Stage, home: Path):
        """`home` is the stage's folder of checkpoints."""
        self.stage, self.home = stage, home
        self.step, self.rate, self.above = 0, 0.0, 0
        self.warm, self.first = False, math.nan

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        self.step, self.rate = state.global_step + 1, optimizer.param_groups[0]["lr"]
        self.warm = self.step > args.get_warmup_steps(state.max_steps)
        if math.isnan(self.first):  # from what checkpoints keep, so that a run that goes on judges alike
            self.first = next((row["mean_cosine"] for row in state.log_history if "mean_cosine" in row), math.nan)

    def look(
        self,
        model: nn.Module,
        losses: Sequence[tuple[Term, Tensor]],
        total: Tensor,
        cosine: Tensor,
        pool: GatheredBatch,
        batch: ContrastiveBatch,
    ) -> None:
        """After the forward pass: `losses` by term and their `total`, `cosine` the mean over the trained vectors."""
        fine = (torch.isfinite(pool.vectors).all() & torch.isfinite(total)).float()
        sound, mean = torch.stack([fine, cosine]).tolist()
        if not sound:
            self._broken(model, losses, pool, batch)
        alike = self.warm and mean > self.stage.max_cosine and 1 - mean < SHRUNK * (1 - self.first)
        self.above = self.above + 1 if alike else 0
        if self.above >= PATIENCE:
            self._stop(
                f"the vectors have collapsed: their mean cosine rose from {self.first:.4f} to {mean:.4f} and lay above "
                f"max_cosine {self.stage.max_cosine:g} for {PATIENCE} steps, so that all inputs look alike; lower "
                "learning_rate"
            )

    def gradient(self, norm: float | Tensor | None) -> None:
        """Before the optimiser's step; None where the engine does not tell."""
        if norm is not None and not math.isfinite(norm):
            self._stop(f"the norm of the gradient is {float(norm)} while the loss is finite; lower learning_rate")

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **_: Any) -> None:
        if self.above:
            control.should_save = False
        if control.should_save or control.should_log:
            self.weights(model)

    def weights(self, model: nn.Module) -> None:
        """After the optimiser's step: whether what it changed is still finite."""
        name = _first_broken(model)
        if name:
            self._stop(f"the optimiser's step left {name} with values that are not finite; lower learning_rate")

    def _broken(
        self, model: nn.Module, losses: Sequence[tuple[Term, Tensor]], pool: GatheredBatch, batch: ContrastiveBatch
    ) -> NoReturn:
        name = _first_broken(model)
        if name:
            self._stop(f"the step before left {name} with values that are not finite; lower learning_rate")
        bad = ~torch.isfinite(pool.vectors).all(1)
        if bad.any():
            self._stop(f"the vectors of {_rows(bad, pool, batch)} are not finite; look at their inputs")
        terms = ", ".join(f"{term.name} is {loss.item()}" for term, loss in losses if not torch.isfinite(loss))
        self._stop(f"the loss of {terms} while all vectors are finite; raise temperature")

    def _stop(self, diagnosis: str) -> NoReturn:
        last = last_checkpoint(self.home)
        kept = f"the last good checkpoint, {last}, is kept" if last else "there is no checkpoint yet"
        where = f"stage '{self.home.name}' stopped at step {self.step}, learning rate {self.rate:.3g}"
        raise ModelError(f"{where}: {diagnosis}; {kept}")


def _first_broken(model: nn.Module) -> str | None:
    """The first trained parameter with values that are not finite."""
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad and p.numel()}
    if math.isfinite(torch.nn.utils.get_total_norm(list(trained.values()), math.inf)):
        return None
    return next((name for name, p in trained.items() if not torch.isfinite(p).all()), None)


def _rows(bad: Tensor, pool: GatheredBatch, batch: ContrastiveBatch) -> str:
    """Whose vectors they are, and in what roles; each process knows the ids of its own rows."""
    found: dict[str, list[str]] = {}
    first = int(pool.mine[0])
    for use, place in pool.places.items():
        for row in pool.owners_of(use)[bad[place]].tolist():
            if first <= row < first + len(batch.ids):
                found.setdefault(batch.ids[row - first], []).append(use.role)
    if not found:
        return "rows that another process names"
    shown = [f"{row} ({', '.join(dict.fromkeys(roles))})" for row, roles in list(found.items())[:_SHOWN]]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"row{'s' if len(found) > 1 else ''} {', '.join(shown)}{more}"
