"""What a stage's guide takes: its weights while it encodes, beside what is trained, and its vectors on the disk."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mllm_embed.encode.model_source import find_model
from mllm_embed.model.families import states_width
from mllm_embed.model.lora import LoraSpec

from ..recipe.config import Recipe
from ..recipe.stage import Stage
from .model import build, find_config, locate, stored_bytes


@dataclass(frozen=True)
class GuidePlan:
    """The plan of a stage's guide, in bytes.

    Args:
        weights: in memory before the first step, beside the model with its adapter; they are gone when it comes.
        vectors: on the disk, at most: one for each role of each row that the stage visits; None where they are unknown.
    """

    weights: int
    vectors: int | None


def plan_guide(
    recipe: Recipe, stage: Stage, bf16: bool, place: torch.device, rows: int | None, steps: int | None
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
    wanted = source.dtype("auto" if bf16 else "float32", place) if source else None
    usual = (config.dtype if bf16 else None) or torch.float32
    dtype = wanted if isinstance(wanted, torch.dtype) else usual
    model, _ = build(config, LoraSpec(rank=1, projector=False), dtype)
    weights = stored_bytes(model, recipe.quantization if guide.model is None else None)
    return GuidePlan(weights, _vector_bytes(stage, states_width(config), rows, steps))


def _vector_bytes(stage: Stage, dimension: int, rows: int | None, steps: int | None) -> int | None:
    visited = [count for count in (rows, None if steps is None else steps * stage.batch_size) if count is not None]
    # a bank's candidates, and those of the mining while it trains, are of all rows
    every = stage.mine is not None or any(term.uses_bank for term in stage.terms)
    known = rows if every else min(visited, default=None)
    return None if known is None else known * len(stage.roles) * (2 * dimension + 8)
