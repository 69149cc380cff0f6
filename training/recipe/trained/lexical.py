"""The recipe's section `lexical`: vectors of words beside the dense ones; and what goes with it, or not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from mllm_embed.errors import ConfigError

from ..section import Section

if TYPE_CHECKING:
    from mllm_embed import MLLMEmbedder
    from mllm_embed.model.embedding_model import EmbeddingModel
    from mllm_embed.saving.settings import Settings

    from ..config import Recipe


class LexicalSection(Section):
    """A weight for each word of the vocabulary, off the model's own head and trained with the adapter."""

    words: int = Field(default=256, gt=0, description="of a vector at most where it is stored and searched")
    weight: float = Field(
        default=1.0, gt=0, description="share in the loss of each term's InfoNCE on lexical vectors, beside the dense"
    )
    flops: float = Field(
        default=0.1,
        ge=0,
        description="weight of the FLOPS penalty on queries and on documents, which presses words that are said of "
        "everything towards nothing; it grows with the square of the step over the first third of a stage",
    )


def with_lexical_setting(recipe: Recipe, settings: Settings) -> Settings:
    """Return settings of a model whose lexical vectors a recipe trains; as they are where it says nothing.

    Raises ConfigError for a recipe without the section of a model that was trained with it.
    """
    from mllm_embed.model.heads.lexical_head import RANK, Lexical
    from mllm_embed.model.pooling import MULTI

    section, own = recipe.lexical, settings.lexical
    if section is None:
        if own and own.rank:
            raise ConfigError(
                f"{recipe.adapter or recipe.model} was trained for lexical vectors, which it would lose; give "
                f"lexical: {{words: {own.words}}}"
            )
        return settings
    if settings.pooling in MULTI:
        raise ConfigError(
            "lexical goes beside one dense vector an input, not with pooling: multi; leave one of them out"
        )
    start = own or Lexical()
    return replace(settings, lexical=replace(start, words=section.words, rank=start.rank or RANK))


def with_lexical(recipe: Recipe, embedder: MLLMEmbedder) -> MLLMEmbedder:
    """Return an embedder with a recipe's lexical vectors, itself where it has none; what is trained of them is put in
    by `add_lexical_head`. Raises as `with_lexical_setting`, and as `MLLMEmbedder.with_lexical`."""
    settings = with_lexical_setting(recipe, embedder.settings)
    return embedder if settings == embedder.settings else embedder.with_settings(settings)


def add_lexical_head(settings: Settings, model: EmbeddingModel) -> None:
    """Put what is trained of a language head into a model whose settings have it; let one that is there be trained.

    Its weights come from torch's random state, and lie where the model's do.
    """
    from mllm_embed.model.heads.lexical_head import LexicalHead, LexicalHeadSpec

    if settings.lexical is None or not settings.lexical.rank:
        return
    if model.lexical_head is None:
        model.lexical_head = LexicalHead(LexicalHeadSpec(model.states_width, model.vocabulary, settings.lexical.rank))
    model.lexical_head.to(next(model.parameters()).device).requires_grad_(True)
