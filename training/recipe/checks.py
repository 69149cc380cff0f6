"""Checks that a recipe can be trained at all, before anything is: for the run and for its plan alike."""

from __future__ import annotations

import os

from mllm_embed.errors import ConfigError, DataError

from .config import Recipe
from .stage import Stage


def processes() -> int:
    """Return how many processes torchrun, accelerate or deepspeed started."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first_process() -> bool:
    """Return whether this process is the one that writes what all share."""
    return int(os.environ.get("RANK", 0)) == 0


def check_batch(name: str, stage: Stage, rows: int) -> None:
    """Raise DataError for fewer rows than a batch, ConfigError for a batch that the processes cannot share."""
    if stage.batch_size % processes() or stage.batch_size // processes() < 1:
        raise ConfigError(
            f"stage '{name}': batch_size {stage.batch_size} is that of all processes together, and {processes()} of "
            "them cannot share it evenly; make it a multiple"
        )
    if rows < stage.batch_size:
        raise DataError(
            f"stage '{name}': {stage.where} has {rows:,} {stage.rows}, fewer than batch_size {stage.batch_size}; "
            "lower it or add rows"
        )


def check_dimension(recipe: Recipe, dimension: int) -> None:
    """Raise ConfigError for a stage that trains vectors cut to more than the model's `dimension`."""
    for name, stage in recipe.stages.items():
        if stage.matryoshka and stage.matryoshka[-1] >= dimension:
            raise ConfigError(
                f"stage '{name}': matryoshka {stage.matryoshka[-1]} must be smaller than the {dimension} dimensions of "
                f"{recipe.model}, which are trained anyway"
            )
