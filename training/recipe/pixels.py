"""The sizes of pictures that a recipe sets, which are saved with an adapter: limits of the model's image processor, and
the size at which JPEGs are decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ConfigError
from mllm_embed.inputs.resize import check_agrees, with_picture_settings
from mllm_embed.model.families import family_of
from mllm_embed.saving.settings import Settings

from .run_keys import RunKeys


def picture_settings(recipe: RunKeys, config: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recipe sets of the image processor, by the processor's names; nothing where it sets no limit.

    Args:
        recipe: of a run.
        config: of its model, as transformers has it.
        known: the settings of the model's image processor, where they are known.

    Raises ConfigError for a model that has no such limits, and for limits that hold no picture.
    """
    low, high = recipe.min_pixels, recipe.max_pixels
    if low is None and high is None:
        return {}
    try:
        found = family_of(config).pictures.limits(config, known, low, high)
    except ConfigError as error:
        raise ConfigError(f"min_pixels, max_pixels: {error}") from error
    check_agrees(config, found)
    return found


def limited(recipe: RunKeys, settings: Settings) -> Settings:
    """Return settings which decode JPEGs as the recipe says, and whose own limits of a picture, before the image
    processor's, are the recipe's too."""
    settings = settings.reading(recipe.jpeg_side)
    given = {"min_pixels": recipe.min_pixels, "max_pixels": recipe.max_pixels}
    own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not own or settings.resize is None or settings.resize.factor is None:
        return settings
    return replace(settings, resize=replace(settings.resize, **own))


def read_as(recipe: RunKeys, config: Any, processor: Any, settings: Settings) -> tuple[Any, Settings]:
    """Return a processor and settings by which a model sees pictures of the sizes that the recipe sets; those given
    where it sets none.

    `config` is that of the model, as transformers has it. Raises ConfigError as `picture_settings`.
    """
    pictures = picture_settings(recipe, config, processor.image_processor.to_dict())
    return with_picture_settings(processor, pictures) if pictures else processor, limited(recipe, settings)


def with_pixels(recipe: RunKeys, embedder: MLLMEmbedder) -> MLLMEmbedder:
    """Return an embedder that sees pictures of the sizes that the recipe sets, itself where it sets none.

    Raises ConfigError as `picture_settings`.
    """
    processor, settings = read_as(recipe, embedder.model.base.config, embedder.processor, embedder.settings)
    if processor is embedder.processor and settings is embedder.settings:
        return embedder
    return embedder.with_settings(settings, processor)
