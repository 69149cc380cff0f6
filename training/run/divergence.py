"""The guard that stops a run gone wrong, in one sentence, before a checkpoint keeps the damage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from mllm_embed.errors import ModelError

from ..batch.collator import ContrastiveBatch
from ..distributed.gathering import GatheredBatch
from ..recipe.stage import Stage
from ..recipe.stage_keys.terms import Term
from .checkpoints import last_checkpoint

PATIENCE = 10  # steps one after the other that must look collapsed
SHRUNK = 0.1  # share of the vectors' first spread that a collapse leaves at most
_SHOWN = 5


class StepGuard(TrainerCallback):
    """A guard of a stage's steps; its methods raise ModelError where the run must stop: at once for a gradient or
    weights that are not finite."""

    def __init__(self, home: Path):
        """Guard a stage, whose folder of checkpoints is `home`."""
        self.home, self.step, self.rate = home, 0, 0.0
        self.above = 0  # steps one after the other that look collapsed

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Note the step and its learning rate, for a message."""
        self.step, self.rate = state.global_step + 1, optimizer.param_groups[0]["lr"]

    def check_gradient(self, norm: float | Tensor | None) -> None:
        """Check the gradient's norm before the optimiser's step; None where the engine does not give it."""
        if norm is not None and not math.isfinite(norm):
            self.stop(f"the norm of the gradient is {float(norm)} while the loss is finite; lower learning_rate")

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Hold back a checkpoint while the vectors look collapsed, and check the weights that one would hold."""
        if self.above:
            control.should_save = False
        if control.should_save or control.should_log:
            self.check_weights(model)

    def check_weights(self, model: nn.Module) -> None:
        """Check after the optimiser's step that what it changed is still finite."""
        name = first_broken(model)
        if name:
            self.stop(f"the optimiser's step left {name} with values that are not finite; lower learning_rate")

    def stop_not_finite(self, model: nn.Module, losses: Mapping[str, float]) -> NoReturn:
        """End the run for a loss, by the name of its term, that is not finite, with its cause."""
        name = first_broken(model)
        if name:
            self.stop(f"the step before left {name} with values that are not finite; lower learning_rate")
        terms = ", ".join(f"{term} is {loss}" for term, loss in losses.items() if not math.isfinite(loss))
        self.stop(f"the loss of {terms}; look at the inputs of its rows, or lower learning_rate")

    def stop(self, diagnosis: str) -> NoReturn:
        """End the run with what is wrong, and what is kept."""
        last = last_checkpoint(self.home)
        kept = f"the last good checkpoint, {last}, is kept" if last else "there is no checkpoint yet"
        where = f"stage '{self.home.name}' stopped at step {self.step}, learning rate {self.rate:.3g}"
        raise ModelError(f"{where}: {diagnosis}; {kept}")


class DivergenceGuard(StepGuard):
    """A guard that checks every step of a contrastive stage, too.

    Numbers that are not finite stop it at once. Vectors have collapsed when, for PATIENCE steps after the warm-up,
    their mean cosine lies above the stage's `max_cosine`, and its distance from 1 is less than SHRUNK of that at the
    first step: inputs that look alike to an untrained model (short texts of one kind may) are no collapse. No
    checkpoint is written while it looks so, and thus the last one is from before.
    """

    def __init__(self, stage: Stage, home: Path):
        """Guard a stage, whose folder of checkpoints is `home`."""
        super().__init__(home)
        self.stage, self.warm, self.first = stage, False, math.nan

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Note the step and its learning rate, for a message, and what the first step's mean cosine was."""
        super().on_step_begin(args, state, control, optimizer)
        self.warm = self.step > args.get_warmup_steps(state.max_steps)
        if math.isnan(self.first):  # from what checkpoints keep, so that a run that goes on judges alike
            self.first = next((row["mean_cosine"] for row in state.log_history if "mean_cosine" in row), math.nan)

    def check_step(
        self,
        model: nn.Module,
        losses: Sequence[tuple[Term, Tensor]],
        total: Tensor,
        cosine: Tensor,
        gathered: GatheredBatch,
        batch: ContrastiveBatch,
    ) -> None:
        """Check a step after its forward pass: numbers that are not finite, vectors that have collapsed.

        Args:
            model: what is trained.
            losses: the scalar loss of each term.
            total: their weighted sum.
            cosine: the mean cosine of the trained vectors.
            gathered: the vectors of all processes.
            batch: the rows of this one, for their ids.
        """
        fine = (torch.isfinite(gathered.vectors).all() & torch.isfinite(total)).float()
        # both in one transfer from the GPU, the only one that a step waits for
        sound, mean = torch.stack([fine, cosine]).tolist()
        if not sound:
            self._stop_not_finite(model, losses, gathered, batch)
        alike = self.warm and mean > self.stage.max_cosine and 1 - mean < SHRUNK * (1 - self.first)
        self.above = self.above + 1 if alike else 0
        if self.above >= PATIENCE:
            self.stop(
                f"the vectors have collapsed: their mean cosine rose from {self.first:.4f} to {mean:.4f} and lay above "
                f"max_cosine {self.stage.max_cosine:g} for {PATIENCE} steps, so that all inputs look alike; lower "
                "learning_rate"
            )

    def _stop_not_finite(
        self, model: nn.Module, losses: Sequence[tuple[Term, Tensor]], gathered: GatheredBatch, batch: ContrastiveBatch
    ) -> NoReturn:
        # from the cause to its effects: weights spoil vectors, and vectors the loss
        name = first_broken(model)
        if name:
            self.stop(f"the step before left {name} with values that are not finite; lower learning_rate")
        bad = ~torch.isfinite(gathered.vectors).flatten(1).all(1)
        if bad.any():
            self.stop(f"the vectors of {_rows(bad, gathered, batch)} are not finite; look at their inputs")
        terms = ", ".join(f"{term.name} is {loss.item()}" for term, loss in losses if not torch.isfinite(loss))
        what = f"the loss of {terms or 'the thoughts is not finite'}"
        self.stop(f"{what} while all vectors are finite; raise temperature")


def first_broken(model: nn.Module) -> str | None:
    """Return the name of the first trained parameter with values that are not finite."""
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad and p.numel()}
    if math.isfinite(torch.nn.utils.get_total_norm(list(trained.values()), math.inf)):
        return None
    return next((name for name, p in trained.items() if not torch.isfinite(p).all()), None)


def _rows(bad: Tensor, gathered: GatheredBatch, batch: ContrastiveBatch) -> str:
    """Return whose vectors are `bad` [N] bool, and in what roles; each process knows the ids of its own rows alone."""
    roles: dict[str, list[str]] = {}
    first = int(gathered.local_rows[0])
    for use, places in gathered.places.items():
        for row in gathered.owners_of(use)[bad[places]].tolist():
            if first <= row < first + len(batch.ids):
                roles.setdefault(batch.ids[row - first], []).append(use.role)
    if not roles:
        return "rows that another process names"
    shown = [f"{row} ({', '.join(dict.fromkeys(names))})" for row, names in list(roles.items())[:_SHOWN]]
    more = f" and {len(roles) - _SHOWN} more" if len(roles) > _SHOWN else ""
    return f"row{'s' if len(roles) > 1 else ''} {', '.join(shown)}{more}"
