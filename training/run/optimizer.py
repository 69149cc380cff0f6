"""The optimiser of a stage, and its rates: of temperature, projector and vision tower by themselves, at each step.

A stage has one part or, where it trains on when it was finished, several: each so many steps with a schedule of its
own, warm-up and fall. The first is `steps` or `epochs`, each entry of `more_steps` another, from the weights and the
optimiser's state that the one before left. So a stage that was finished, and then was given more, trained exactly what
a recipe with both says from the start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments

from mllm_embed.model.embedding_model import is_part
from mllm_embed.model.families import Family

from ..recipe.row_stage import RowStage
from ..recipe.stage_keys.optimizer import CENTROID_RATE, TEMPERATURE_RATE

Group = dict[str, Any]
_OF_LOSS = ("temperature", "centroids")  # parameters of an encoder of batches that are none of the model
_STAGE = ""  # the part that learns at the stage's own rate


class StageOptimizer(Trainer):
    """A Trainer whose optimiser is a stage's."""

    stage: RowStage
    rates: dict[str, float]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the optimiser, made anew at the first call."""
        if self.optimizer is None:
            trained: Any = self.model if model is None else model
            decayed = self.get_decay_parameter_names(trained)
            groups = parameter_groups(trained, self.stage, decayed, trained.model.family)
            if self.is_deepspeed_enabled:  # whose engine takes empty ones away, and their rates with them
                groups = [group for group in groups if group["params"]]
            self._names = [group.pop("name") for group in groups]
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
            # by this key Trainer takes groups other than its own
            self.optimizer_cls_and_kwargs = kind, options | {"params": groups}
        return super().create_optimizer(model)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the parameters that weight decay draws to 0: Trainer's, without those of the loss."""
        return [name for name in super().get_decay_parameter_names(model) if not set(_OF_LOSS) & set(name.split("."))]

    def _get_learning_rate(self) -> float:
        """Return the rate of the step just taken, and note those of parts with their own: the schedule moves on before
        a line is logged."""
        scheduler: Any = self.lr_scheduler
        rates = zip(self._names, scheduler.get_last_lr(), strict=True)
        self.rates = {f"learning_rate/{name}": rate for name, rate in rates if name != _STAGE}
        return super()._get_learning_rate()


def parameter_groups(encoder: nn.Module, stage: RowStage, decayed: list[str], family: Family) -> list[Group]:
    """Return the groups of parameters that an optimiser is given: `params`, `weight_decay`, `name`, and `lr` where what
    it names has a rate of its own.

    The first two, of which one may be empty, learn at the stage's rate, with decay and without.
    """
    own = {name: rate for name, rate in _own_rates(stage).items() if rate is not None}
    members: dict[tuple[str, bool], list[nn.Parameter]] = {(_STAGE, True): [], (_STAGE, False): []}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            part = _part_of(name, family)
            members.setdefault((part if part in own else _STAGE, name in decayed), []).append(parameter)
    return [
        {"params": params, "weight_decay": stage.weight_decay if decays else 0.0, "name": part}
        | ({"lr": own[part]} if part in own else {})
        for (part, decays), params in members.items()
    ]


def _own_rates(stage: RowStage) -> dict[str, float | None]:
    rates = stage.rates
    return {
        "temperature": rates.temperature or TEMPERATURE_RATE,
        "centroids": rates.centroids or CENTROID_RATE,
        "projector": rates.projector,
        "vision": rates.vision,
    }


def _part_of(name: str, family: Family) -> str:
    """Return which part a parameter of a BatchEncoder belongs to, by its name; a projector may lie in the tower."""
    own = next((part for part in _OF_LOSS if part in name.split(".")), None)
    if own:
        return own
    if is_part(name, family.projector):
        return "projector"
    return "vision" if is_part(name, family.vision) else _STAGE


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
