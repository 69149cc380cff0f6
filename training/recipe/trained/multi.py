"""The recipe's section `multi`: a vector a token, scored by MaxSim (late interaction), and what goes with it or not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mllm_embed.errors import ConfigError
from mllm_embed.inputs.pooled_tokens import CONTENT, CONTENT_PICTURES, CONTENT_WORDS
from mllm_embed.model.pooling import MULTI

from ..section import Section

if TYPE_CHECKING:
    from mllm_embed import MLLMEmbedder
    from mllm_embed.model.embedding_model import EmbeddingModel
    from mllm_embed.saving.settings import Settings

    from ..config import Recipe
    from ..stage import Stage

WIDTH = 128  # ColBERT's and ColPali's
_POOLED = {"picture": CONTENT_PICTURES, "words": CONTENT_WORDS, "all": CONTENT}


class MultiSection(Section):
    """What each token's vector is made by, where `pooling: multi`."""

    width: int | None = Field(
        default=None,
        gt=0,
        le=65_536,
        description="numbers of a vector, by a linear layer that is trained with the adapter; by default those of a "
        f"layer that is there, or else {WIDTH}",
    )
    tokens: Literal["picture", "words", "all"] | None = Field(
        default=None,
        description="which have a vector, the prompt's own never: the picture's, the words', or both; an input without "
        "the one kind has those of the other; by default as saved, or else all",
    )


def with_multi_tokens(recipe: Recipe, settings: Settings) -> Settings:
    """Return settings whose vectors are of the tokens that a recipe says; those of single vectors as they are.

    Raises ConfigError for a section `multi` of a model of single vectors, and for what takes these alone.
    """
    section = recipe.multi
    if settings.pooling not in MULTI:
        if section is not None:
            raise ConfigError(
                f"multi is of vectors a token, and the model pools '{settings.pooling}'; give pooling: multi, or leave "
                "multi out"
            )
        return settings
    _check_single(recipe)
    if section is not None and section.tokens is not None:
        return replace(settings, pooled=_POOLED[section.tokens])
    return settings.pooling_by(None)


def _check_single(recipe: Recipe) -> None:
    stages = [(name, stage, term) for name, stage in recipe.stages.items() for term in stage.terms]
    why = {
        "teacher": recipe.teacher is not None,
        **{f"stages.{name}: guide, a stage of this run,": _guided_by_own(recipe, stage) for name, stage, _ in stages},
        **{f"stages.{name}: mine": stage.mine is not None for name, stage, _ in stages},
        **{f"stages.{name}: bank": term.uses_bank for name, _, term in stages},
        **{f"stages.{name}: judged": term.judged for name, _, term in stages},
        **{f"stages.{name}: frozen": term.frozen for name, _, term in stages},
    }
    found = next((key for key, is_so in why.items() if is_so), None)
    if found:
        raise ConfigError(f"{found} takes one vector an input, and pooling: multi makes one a token; leave one out")


def _guided_by_own(recipe: Recipe, stage: Stage) -> bool:
    from ..checks import guiding_stage  # which knows the recipe that this is a section of

    adapter = stage.guide.adapter if stage.guide else None
    return adapter is not None and guiding_stage(recipe, adapter) is not None


def with_multi(recipe: Recipe, embedder: MLLMEmbedder) -> MLLMEmbedder:
    """Return an embedder whose vectors are of the tokens that a recipe says, itself where these are its own already.
    Raises as `with_multi_tokens`."""
    settings = with_multi_tokens(recipe, embedder.settings)
    return embedder if settings == embedder.settings else embedder.with_settings(settings)


def add_projection(recipe: Recipe, model: EmbeddingModel) -> None:
    """Put a new linear layer into a model of several vectors an input that has none, from torch's random state.

    Raises ConfigError for a layer of another width than the recipe's.
    """
    from mllm_embed.model.heads.projection import new_projection

    if not model.multi:
        return
    width = recipe.multi.width if recipe.multi else None
    if model.projection is None:
        model.projection = new_projection(model.states_width, width or WIDTH)
    elif width not in (None, model.width):
        raise ConfigError(
            f"multi.width is {width}, and the model to go on from makes vectors of {model.width} numbers; leave width "
            "out, or start from its base"
        )
