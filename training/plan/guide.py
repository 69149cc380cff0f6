"""What a stage's guide takes: its weights while it encodes, beside what is trained, and its vectors on the disk."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from mllm_embed.encode.model_source import ModelSource, find_model
from mllm_embed.model.families import states_width
from mllm_embed.model.lora import LoraSpec
from mllm_embed.types import Item

from ..batch.stage_data import SAMPLED_ROWS
from ..distill.guide import items_of
from ..false_negatives.keys import as_told, key_of
from ..recipe.config import Recipe
from ..recipe.stage import Stage
from .model import build, find_config, locate, stored_bytes

if TYPE_CHECKING:
    from ..batch.stage_data import StageRows


@dataclass(frozen=True)
class GuidePlan:
    """The plan of a stage's guide, in bytes.

    Args:
        weights: in memory before the first step, beside the model with its adapter; they are gone when it comes.
        vectors: on the disk, one of each distinct input that may play a role of a row that the stage visits: at most,
            and about where some of many rows stand for all; None where they are unknown.
    """

    weights: int
    vectors: int | None


def plan_guide(
    recipe: Recipe, stage: Stage, bf16: bool, place: torch.device, rows: StageRows | None, steps: int | None
) -> GuidePlan | None:
    """Return the plan of a stage's guide, None for a stage without one.

    `rows` and `steps` are the stage's, None where they are not known. Raise ModelError as `find_config`.
    """
    guide = stage.guide
    if guide is None:
        return None
    name = guide.model or recipe.model
    folder = locate(name)
    source = find_model(folder) if folder else None
    if source and source.has_adapter:
        name = source.base
    config, _ = find_config(name)
    model, _ = build(config, LoraSpec(rank=1, projector=False), _dtype(source, config, bf16, place))
    weights = stored_bytes(model, recipe.quantization if guide.model is None else None)
    inputs = _inputs(stage, rows, steps)
    return GuidePlan(weights, None if inputs is None else inputs * (2 * states_width(config) + 8))


def _dtype(source: ModelSource | None, config: Any, bf16: bool, place: torch.device) -> torch.dtype:
    """Return the number format that a guide is loaded in."""
    wanted = source.dtype("auto" if bf16 else "float32", place) if source else None
    return wanted if isinstance(wanted, torch.dtype) else (config.dtype if bf16 else None) or torch.float32


def _inputs(stage: Stage, rows: StageRows | None, steps: int | None) -> int | None:
    """Return how many inputs the guide embeds at most, None where that is not known."""
    visited = None if steps is None else steps * stage.batch_size
    # a bank's candidates, and those of the mining while it trains, are of all rows
    if stage.mine is not None or any(term.uses_bank for term in stage.terms):
        visited = None if rows is None else len(rows)
    if rows is not None:
        return _inputs_of_rows(stage, rows, min(len(rows), visited or len(rows)))
    further = (stage.hard_negatives or 1) - 1 if "hard_negative" in stage.roles else 0
    return None if visited is None else visited * (len(stage.roles) + further)


def _inputs_of_rows(stage: Stage, rows: StageRows, visited: int) -> int:
    """Return how many inputs `visited` of these rows bring at most, as its run tells inputs apart."""
    looked_at = min(len(rows), SAMPLED_ROWS)
    brought = [_keys(items_of(row, stage)) for row in rows.sample()]
    fullest = sorted(map(len, brought), reverse=True)[: math.ceil(looked_at * visited / len(rows))]
    most = math.ceil(sum(fullest) * len(rows) / looked_at)
    return min(most, len(set(chain.from_iterable(brought)))) if looked_at == len(rows) else most


def _keys(items: Iterable[Item]) -> set[Hashable]:
    return {key_of(item, as_told) for item in items}
