"""What a re-ranker's recipe goes on from: a base as it is, the adapter of a re-ranker, or an embedder's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mllm_embed.encode.model_source import ModelSource, places
from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.inputs.pairs.prompt import RerankPrompt
from mllm_embed.model.lora import check_files
from mllm_embed.presets.rerankers.catalog import reranker_preset_of
from mllm_embed.rerank.source import RerankSource, find_reranker
from mllm_embed.saving.hub import small_files
from mllm_embed.saving.reranker_settings import RerankSettings, read_reranker
from mllm_embed.saving.settings import read_settings

from .recipe import RerankRecipe


@dataclass(frozen=True)
class RerankStart:
    """What a re-ranker's recipe goes on from.

    Args:
        parts: where the base lies, and the adapter whose weights it begins with.
        read_as: the re-ranker whose prompt, limits and processor it has: the adapter's, where that is one, or else the
            base, untrained.
        saved: whether it is the adapter's.
    """

    parts: ModelSource
    read_as: RerankSource
    saved: bool

    def prompt(self, recipe: RerankRecipe) -> RerankPrompt:
        """Return how it is asked. Raise ConfigError where a listwise term of the recipe cannot be."""
        given: Any = recipe.reranker.prompt
        prompt = self.read_as.own.asked(given).prompt if given else self.read_as.own.prompt
        _check_lists(recipe, prompt)
        return prompt


def start_from(recipe: RerankRecipe, model: str) -> RerankStart:
    """Return what a recipe goes on from; an embedder's weights know what to look at, and are no worse than none.

    `model` is the recipe's, or the folder on this disk that holds it. Raise ModelError as `places` and `find_reranker`,
    and for the adapter of an embedder that reads fewer tokens of a picture.
    """
    folder, base, revision, has_adapter = places(model, recipe.adapter, None)
    parts = ModelSource(base, revision, folder, has_adapter, None)
    saved = _adapters_own(recipe, folder) if has_adapter else None
    read_as = find_reranker(model, recipe.adapter) if saved else find_reranker(base, revision=revision)
    return RerankStart(parts, read_as, saved is not None)


def start_unseen(recipe: RerankRecipe, base: str, adapter: str | None) -> RerankStart:
    """Return the same where the base is not on this disk, as far as it is known. Nothing of it is fetched."""
    folder = None if adapter is None else small_files(adapter)
    saved = None if folder is None else _adapters_own(recipe, folder)
    parts = ModelSource(base, None, folder or base, folder is not None, None)
    if saved:
        return RerankStart(parts, RerankSource(parts, saved), True)
    preset = reranker_preset_of(base)
    bare = ModelSource(base, None, base, False, None, preset=preset.about if preset else None)
    return RerankStart(parts, RerankSource(bare, preset.settings if preset else RerankSettings(), preset), False)


def _adapters_own(recipe: RerankRecipe, folder: str) -> RerankSettings | None:
    """Return the settings of a re-ranker's adapter, None for an embedder's.

    Raise ModelError for a folder that holds none, and for one of an embedder that reads fewer tokens of a picture.
    """
    check_files(folder, recipe.adapter or recipe.model)
    saved = read_reranker(folder)
    embedder = None if saved else read_settings(folder)
    if embedder and embedder.picture_tokens:
        raise ModelError(
            f"the adapter {folder} was trained on {embedder.picture_tokens} tokens a picture, and a re-ranker reads "
            "all; go on from another, or from none"
        )
    return saved


def _check_lists(recipe: RerankRecipe, prompt: RerankPrompt) -> None:
    """Raise ConfigError where a prompt has no form of lists for a listwise term, or too few labels."""
    for name, stage in recipe.stages.items():
        if "listwise" not in stage.weights:
            continue
        if prompt.list is None:
            raise ConfigError(
                f"stage '{name}' has a listwise term, and the re-ranker's prompt has no `list`; give reranker.prompt"
            )
        if stage.candidates > prompt.list.most:
            raise ConfigError(
                f"stage '{name}': candidates {stage.candidates} are more than the prompt's list.most, "
                f"{prompt.list.most}; lower the one or raise the other"
            )
