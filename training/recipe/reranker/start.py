"""What a re-ranker's recipe goes on from: a base as it is, the adapter of a re-ranker, or an embedder's."""

from __future__ import annotations

from pathlib import Path

from mllm_embed.encode.model_source import ModelSource, places
from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.inputs.pairs.prompt import RerankPrompt
from mllm_embed.saving.reranker_settings import RerankSettings, read_reranker
from mllm_embed.saving.settings import read_settings

from .recipe import RerankRecipe


def parts_of(recipe: RerankRecipe, model: str) -> tuple[ModelSource, RerankSettings | None]:
    """Return where the recipe's base and adapter lie, and the settings of a re-ranker to go on from, None without one.

    `model` is the recipe's, or the folder on this disk that holds it. Raise ModelError as `places`, and for an adapter
    whose pictures a re-ranker cannot read.
    """
    folder, base, revision, has_adapter = places(model, recipe.adapter, None)
    saved = read_reranker(folder) if has_adapter else None
    if has_adapter and saved is None:
        _check_pictures(Path(folder))
    return ModelSource(base, revision, folder, has_adapter, None), saved


def _check_pictures(start: Path) -> None:
    """Raise ModelError for an embedder's adapter that reads fewer tokens of a picture."""
    own = read_settings(start)
    if own and own.picture_tokens:
        raise ModelError(
            f"the adapter {start} was trained on {own.picture_tokens} tokens a picture, and a re-ranker reads all; "
            "go on from another, or from none"
        )


def check_lists(recipe: RerankRecipe, prompt: RerankPrompt) -> None:
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
