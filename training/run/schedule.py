"""The learning rate of a stage at each step, in one part or, where a finished stage trains on, in several.

A part is so many steps with a schedule of its own: warm-up and fall. The first is a stage's `steps` or `epochs`, each
entry of `more_steps` is another, which starts from the weights and the optimiser's state that the one before left. So
a stage that was finished, and then was given more, trained exactly what a recipe with both says from the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from itertools import accumulate
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainingArguments, get_scheduler


def factor(arguments: TrainingArguments, step: int, steps: int) -> float:
    """Return the share of the peak rate with which step `step`, from 0 on, of a part of `steps` is taken."""
    return float(_formula(arguments.lr_scheduler_type, arguments.get_warmup_steps(steps), steps)(step))


@cache
def _formula(name: str, warmup: int, steps: int) -> Any:
    """Return transformers' formula of a schedule, which it gives only together with an optimiser."""
    throwaway = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    return get_scheduler(name, throwaway, warmup, steps).lr_lambdas[0]


def scheduler(arguments: TrainingArguments, parts: Sequence[int], optimizer: torch.optim.Optimizer) -> LambdaLR:
    """Return the schedule of Trainer's arguments over a stage's parts, for all groups of an optimiser."""
    return LambdaLR(optimizer, partial(_factor_at, arguments, tuple(parts)))


def _factor_at(arguments: TrainingArguments, parts: tuple[int, ...], step: int) -> float:
    """Return the factor of a step of the whole stage; behind its end, of what would be the last part's next step."""
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
