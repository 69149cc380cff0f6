"""The learning rate of a stage at each step, in one part or, where a finished stage trains on, in several.

A part is so many steps with a schedule of its own: warm-up and fall. The first is a stage's `steps` or `epochs`, each
entry of `more_steps` is another, which starts from the weights and the optimiser's state that the one before left. So
a stage that was finished, and then was given more, trained exactly what a recipe with both says from the start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainingArguments


def factor(arguments: TrainingArguments, step: int, steps: int) -> float:
    """Return the share of the peak rate with which step `step`, from 0 on, of a part of `steps` is taken; behind its
    end that of the last."""
    kind = str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type))
    return share_at(kind, min(step + 1, steps), steps, arguments.get_warmup_steps(steps))


def share_at(schedule: str, step: int, steps: int, warm_up: int) -> float:
    """Return the share of its peak that a rate has in a step, never 0.

    With w warm-up steps, of N, step s of 1 to w has s / w. The peak is at step m = max(w, 1), and n = N - m + 1 steps
    from there on the share has fallen to 1/n at the last: along a line, (N - s + 1) / n, or along half a cosine from 1
    to 1/n. Under "constant_with_warmup" it stays 1.

    Args:
        schedule: one of a stage's.
        step: counted from 1.
        steps, warm_up: N and w.
    """
    if step < warm_up:
        return step / warm_up
    peak = max(warm_up, 1)
    length = steps - peak + 1
    if schedule == "constant_with_warmup" or length <= 1:
        return 1.0
    least, way = 1 / length, min((step - peak) / (length - 1), 1.0)
    fall = way if schedule == "linear" else (1 - math.cos(math.pi * way)) / 2
    return 1 - (1 - least) * fall


def scheduler(arguments: TrainingArguments, parts: Sequence[int], optimizer: torch.optim.Optimizer) -> LambdaLR:
    """Return the schedule of Trainer's arguments over a stage's parts, for all groups of an optimiser."""
    return LambdaLR(optimizer, partial(_factor_at, arguments, tuple(parts)))


def _factor_at(arguments: TrainingArguments, parts: tuple[int, ...], step: int) -> float:
    """Return the factor of a step of the whole stage; behind its end that of the last."""
    start = 0
    for steps in parts[:-1]:
        if step < start + steps:
            return factor(arguments, step - start, steps)
        start += steps
    return factor(arguments, step - start, parts[-1])


def set_rates(schedule: Any, optimizer: torch.optim.Optimizer) -> None:
    """Give each group of an optimiser its rate at the step that a loaded schedule is at.

    A checkpoint holds what the schedule that made it gave to the next step: of a stage that was at its end, and goes
    on with more, another rate than the first of its next part.
    """
    schedule = getattr(schedule, "scheduler", schedule)  # of accelerate's wrapper of one
    rates = [
        peak * rate(schedule.last_epoch) for peak, rate in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates


class PartEnds(TrainerCallback):
    """An order for a checkpoint at the end of each part but the last, where Trainer writes one.

    A stage that is given more goes on from there; one that had its parts from the start is to be the same in its log.
    """

    def __init__(self, parts: Sequence[int]):
        """Set the steps of each part."""
        self.ends = frozenset(accumulate(parts[:-1]))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Order it."""
        control.should_save |= state.global_step in self.ends
