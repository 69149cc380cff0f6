"""Checks that a recipe can be trained at all, before anything is: for the run and for its plan alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.index.jpq.sizes import check_bytes
from mllm_embed.model.lora import ADAPTER_CONFIG

from .config import Recipe
from .row_stage import RowStage
from .run_keys import RunKeys

if TYPE_CHECKING:
    from mllm_embed.model.embedding_model import EmbeddingModel


def processes() -> int:
    """Return how many processes torchrun, accelerate or deepspeed started."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first_process() -> bool:
    """Return whether this process is the one that writes what all share."""
    return int(os.environ.get("RANK", 0)) == 0


def check_batch(name: str, stage: RowStage, rows: int) -> None:
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


def check_guides(recipe: Recipe) -> None:
    """Raise ConfigError for a guide whose adapter is not there, and is not to come from an earlier stage."""
    names = list(recipe.stages)
    for number, (name, stage) in enumerate(recipe.stages.items()):
        adapter = stage.guide.adapter if stage.guide else None
        if adapter is None:
            continue
        own = guiding_stage(recipe, adapter)
        if own is not None and names.index(own) >= number:
            raise ConfigError(
                f"stage '{name}': guide.adapter {adapter} is stage '{own}', which is not trained before it; name one "
                "that is, or an adapter that is there"
            )
        if own is None and not (adapter / ADAPTER_CONFIG).is_file():
            raise ConfigError(
                f"stage '{name}': guide.adapter {adapter} is neither an adapter folder nor {recipe.output}/NAME of an "
                f"earlier stage; name one"
            )


def guiding_stage(recipe: Recipe, adapter: Path) -> str | None:
    """Return the stage of a recipe whose adapter will lie in a folder; None where that is no stage of it."""
    folders = {os.path.abspath(recipe.output / name): name for name in recipe.stages}
    return folders.get(os.path.abspath(adapter))


def check_dimension(recipe: Recipe, dimension: int) -> None:
    """Raise ConfigError for a stage that trains vectors cut to more than the model's `dimension`, or codes whose bytes
    do not divide it."""
    for name, stage in recipe.stages.items():
        if stage.jpq:
            check_bytes(stage.jpq.bytes, dimension)
        if stage.matryoshka and stage.matryoshka[-1] >= dimension:
            raise ConfigError(
                f"stage '{name}': matryoshka {stage.matryoshka[-1]} must be smaller than the {dimension} dimensions of "
                f"{recipe.model}, which are trained anyway"
            )


def check_rates(recipe: RunKeys, model: EmbeddingModel) -> None:
    """Raise ConfigError for a rate of a part that is not trained: an adapter to go on from has parts of its own.

    `model` is the recipe's, with its adapter.
    """
    trained = {"projector": model.trains_projector, "vision": model.trains_vision}
    for name, stage in recipe.stages.items():
        for part, learns in trained.items():
            if getattr(stage.rates, part) and not learns:
                raise ConfigError(
                    f"stages.{name}.rates.{part} is given, and the adapter to go on from trains nothing of that part; "
                    "leave it out"
                )
