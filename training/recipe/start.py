"""The adapter from which a recipe's first stage goes on: where it lies, and whether the recipe asks for another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mllm_embed.encode.model_source import ModelSource
from mllm_embed.errors import ConfigError
from mllm_embed.model.embedding_model import is_part
from mllm_embed.model.families import Family
from mllm_embed.model.lora import ADAPTER_CONFIG, updated_layers
from mllm_embed.saving.hub import small_files
from mllm_embed.saving.provenance import INDEX
from mllm_embed.saving.settings import Settings, read_object

from .config import Recipe
from .run_keys import RunKeys
from .trained.lora import Lora

# keys of the section `lora` by what peft calls them; of the others an adapter's files say which layers it is on
_PEFT = {
    "rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern", "dora": "use_dora", "rslora": "use_rslora",
}  # fmt: skip


def start_of(recipe: RunKeys, source: ModelSource) -> Path | None:
    """Return the folder of the adapter that a recipe goes on from, None for a new one.

    That is its `adapter`, or its `model` where that is an adapter folder. Raise ConfigError where the section `lora`
    asks for what that adapter is not, and for a rate of the vision tower where a new one leaves that frozen.
    """
    if not source.has_adapter:
        _check_tower(recipe)
        return None
    folder = Path(source.folder)
    given = recipe.lora.model_fields_set if "lora" in recipe.model_fields_set else frozenset[str]()
    config = read_object(folder / ADAPTER_CONFIG) or {}
    for key in sorted(given):
        asked, there = _both(key, getattr(recipe.lora, key), config, folder)
        if asked != there:
            raise ConfigError(
                f"lora.{key} is {asked!r:.60}, and the adapter {folder} to go on from has {there!r:.60}; leave lora out"
            )
    return folder


def check_thoughts(recipe: Recipe, settings: Settings) -> None:
    """Raise ConfigError for a recipe without thoughts of a model that has them."""
    if settings.thoughts and recipe.thoughts is None:
        tokens = settings.thoughts.tokens
        raise ConfigError(
            f"{recipe.adapter or recipe.model} was taught to think before it embeds, which it would lose; give "
            f"thoughts: {{tokens: {tokens}}}"
        )


def _check_tower(recipe: RunKeys) -> None:
    """Raise ConfigError for a rate of the vision tower, which a new adapter is not on."""
    for name, stage in recipe.stages.items():
        if stage.rates.vision and not recipe.lora.vision:
            raise ConfigError(f"stages.{name}.rates.vision is given, and the tower is frozen; give lora.vision too")


def _both(key: str, asked: Any, config: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    """Return what the recipe says under a key of `lora`, and what an adapter's files say."""
    if key in _PEFT:
        return asked, config.get(_PEFT[key]) or type(asked)()
    if key == "projector":
        return asked, bool(config.get("modules_to_save"))
    if key == "vision" and asked is False:
        return asked, any(is_part(name, Family.vision) for name in updated_layers(folder))
    # the layers it is on: its own, unless nothing is asked
    return asked, asked if asked in (None, False) else "layers of its own"


def start_folder(recipe: RunKeys) -> Path | None:
    """Return the folder with the small files of the adapter that a recipe goes on from, None for a new one."""
    folder = Path(small_files(recipe.adapter or recipe.model))
    return folder if (folder / ADAPTER_CONFIG).is_file() else None


def trained_lora(recipe: RunKeys) -> Lora:
    """Return what is trained of a recipe's model, by the keys of `lora`: those of the adapter that it goes on from,
    but for the names of its layers, which stand in that adapter's files alone."""
    folder = start_folder(recipe)
    if folder is None:
        return recipe.lora
    config = read_object(folder / ADAPTER_CONFIG)
    own = {key: config[name] for key, name in _PEFT.items() if config.get(name) is not None}
    return Lora(**own, projector=bool(config.get("modules_to_save")))


def check_space(recipe: RunKeys, start: Path, settings: Settings, space: dict[str, Any] | None) -> None:
    """Raise ConfigError where an adapter's queries are for an index of another space than this run's.

    Args:
        recipe: the run's.
        start: the adapter to go on from.
        settings: its own.
        space: that of the recipe's teacher; None without one.
    """
    if settings.target_space == space or not settings.target_space:
        return
    if INDEX in settings.target_space:
        raise ConfigError(
            f"the adapter {start} was tuned with the codes of an index, which further training would leave; give the "
            "adapter that made the index's vectors"
        )
    if space is None:
        raise ConfigError(
            f"the adapter {start} was taught queries for the index of another model, and {recipe.model} without its "
            "teacher would leave that; give its teacher, or another adapter"
        )
    raise ConfigError(
        f"the adapter {start} was taught queries for the index of another model than the recipe's teacher; "
        "give that teacher, or another adapter"
    )
