"""The optimiser of a stage, in which temperature, projector and vision tower may learn at rates of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Trainer

from mllm_embed.model.embedding_model import is_part
from mllm_embed.model.families import Family

from ..recipe.stage import Stage
from ..recipe.stage_keys.optimizer import TEMPERATURE_RATE

Group = dict[str, Any]
_STAGE = ""  # the part that learns at the stage's own rate


class StageOptimizer(Trainer):
    """A Trainer whose optimiser is a stage's."""

    stage: Stage
    rates: dict[str, float]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the optimiser, made anew at the first call."""
        if self.optimizer is None:
            trained: Any = self.model if model is None else model
            decayed = self.get_decay_parameter_names(trained)
            groups = parameter_groups(trained, self.stage, decayed, trained.model.family)
            self._names = [group.pop("name") for group in groups]
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
            # by this key Trainer takes groups other than its own
            self.optimizer_cls_and_kwargs = kind, options | {"params": groups}
        return super().create_optimizer(model)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the parameters that weight decay draws to 0: Trainer's, without the temperature's."""
        return [name for name in super().get_decay_parameter_names(model) if not _is_temperature(name)]

    def _get_learning_rate(self) -> float:
        """Return the rate of the step just taken, and note those of parts with their own: the schedule moves on before
        a line is logged."""
        scheduler: Any = self.lr_scheduler
        rates = zip(self._names, scheduler.get_last_lr(), strict=True)
        self.rates = {f"learning_rate/{name}": rate for name, rate in rates if name != _STAGE}
        return super()._get_learning_rate()


def parameter_groups(encoder: nn.Module, stage: Stage, decayed: list[str], family: Family) -> list[Group]:
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


def _own_rates(stage: Stage) -> dict[str, float | None]:
    rates = stage.rates
    return {
        "temperature": rates.temperature or TEMPERATURE_RATE,
        "projector": rates.projector,
        "vision": rates.vision,
    }


def _part_of(name: str, family: Family) -> str:
    """Return which part a parameter of a BatchEncoder belongs to, by its name; a projector may lie in the tower."""
    if _is_temperature(name):
        return "temperature"
    if is_part(name, family.projector):
        return "projector"
    return "vision" if is_part(name, family.vision) else _STAGE


def _is_temperature(name: str) -> bool:
    return "temperature" in name.split(".")
