"""The recipe's section `token_learner`: fewer tokens of a picture; and what goes with it, or not."""

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


class TokenLearnerSection(Section):
    """A module between projector and language model that makes a few tokens of a picture's, trained with the
    adapter."""

    tokens: int = Field(gt=0, le=1024, description="how many a picture becomes, or each tile of one that is cut")
    local: float = Field(
        default=0.0,
        ge=0,
        description="weight of a loss that keeps the learned tokens near the picture's own, and these "
        "near them (local alignment)",
    )


def with_learned_tokens(recipe: Recipe, settings: Settings) -> Settings:
    """Return settings of pictures that become as many tokens as a recipe says; as they are where it says nothing.

    Raises ConfigError for a model whose pictures become others already, and for a frozen term.
    """
    section, tokens = recipe.token_learner, settings.picture_tokens
    if section is not None and tokens is not None and tokens != section.tokens:
        raise ConfigError(
            f"token_learner.tokens is {section.tokens}, and the model to go on from makes {tokens} of a picture; leave "
            "tokens as they are there, or start from its base"
        )
    found = settings if section is None or tokens else replace(settings, picture_tokens=section.tokens)
    if found.picture_tokens:
        _check_frozen(recipe)
    return found


def _check_frozen(recipe: Recipe) -> None:
    frozen = [name for name, stage in recipe.stages.items() for use in stage.uses if use.frozen]
    if frozen:
        raise ConfigError(
            f"stage '{frozen[0]}' has a frozen term, whose vectors are those of the base, which sees pictures whole: "
            "it does not go with a token learner; leave out one of the two"
        )


def add_token_learner(tokens: int | None, model: EmbeddingModel) -> None:
    """Put a new token learner, of so many tokens, into a model that has none; let one that is there be trained.

    Its weights come from torch's random state, and lie where the model's do. Raises ModelError for a base in which none
    can stand.
    """
    from mllm_embed.model.heads.token_learner import TokenLearner, TokenLearnerSpec
    from mllm_embed.model.vision_features import check_learner, words_width

    if model.token_learner is None and tokens is not None:
        learner = TokenLearner(TokenLearnerSpec(words_width(model.base), tokens))
        check_learner(model.base, model.family, learner)
        model.token_learner = learner.to(next(model.parameters()).device)
    if model.token_learner is not None:
        model.token_learner.requires_grad_(True)


def with_learner(recipe: Recipe, embedder: MLLMEmbedder) -> MLLMEmbedder:
    """Return an embedder whose pictures have the places of a recipe's learned tokens, itself where it has none; the
    learner is put in by `add_token_learner`. Raises ConfigError as `with_learned_tokens`."""
    settings = with_learned_tokens(recipe, embedder.settings)
    return embedder if settings == embedder.settings else embedder.with_settings(settings)
