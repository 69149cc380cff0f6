"""What a plan counts of the heads behind the language model: a projection of each token, and lexical vectors.

    multi     4 h + 12 w bytes a token: its state in float32, its vector before and after the length, and a gradient
    lexical   V (k (b + 8) + 12) bytes an input: the logits of the last k tokens in the head's dtype, of b bytes, in
              float32, and with the bias; and of the largest the logarithm, the vector and a gradient

for states of h numbers, vectors of w, and a vocabulary of V words. A step that is computed twice holds the vectors of
all of its inputs beside that, with their gradients: 8 w bytes a token, and 8 V an input. The loss is left out, as
elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import device, dtype

from mllm_embed.model.embedding_model import EmbeddingModel
from mllm_embed.model.heads.lexical_head import LexicalHead, LexicalHeadSpec
from mllm_embed.model.heads.projection import read_projection
from mllm_embed.saving.settings import Settings

from ..recipe.config import Recipe
from ..recipe.trained.multi import add_projection
from ..recipe.trained.token_learner import add_token_learner
from .inputs import MicroBatch

HEADS = ("projection.", "lexical_head.")


def add_parts(recipe: Recipe, settings: Settings, start: Path | None, model: EmbeddingModel) -> None:
    """Put what a recipe trains beside the adapter into a model on the meta device: a token learner, and the heads;
    `start` is the folder of the adapter to go on from. Raises ConfigError as `add_projection`."""
    with device("meta"):
        add_token_learner(settings.picture_tokens, model)
        if model.multi and start is not None:
            model.projection = read_projection(start)
        add_projection(recipe, model)
        if settings.lexical is not None and settings.lexical.rank:
            spec = LexicalHeadSpec(model.states_width, _vocabulary(model), settings.lexical.rank)
            model.lexical_head = LexicalHead(spec)
    if model.projection is not None:
        model.projection.to("meta").requires_grad_(True)


def asked_tokens(settings: Settings) -> int:
    """Return of how many tokens of an input lexical vectors are read; 0 without any."""
    return settings.lexical.tokens if settings.lexical else 0


def language_head_bytes(settings: Settings, model: EmbeddingModel, weights: dtype) -> int:
    """Return what the base's head takes that lexical vectors are read off; nothing where it is the embeddings."""
    config: Any = model.base.config
    tied = (getattr(part, "tie_word_embeddings", False) for part in (config, config.get_text_config()))
    if settings.lexical is None or any(tied):
        return 0
    return _vocabulary(model) * model.states_width * weights.itemsize


def head_bytes(model: EmbeddingModel, batches: Sequence[MicroBatch], asked: int) -> int:
    """Return what the heads keep of a step's micro-batches until its backward pass; `asked` is of how many tokens an
    input the words are read."""
    trained = [batch for batch in batches if not batch.frozen]
    total = 0
    if model.multi:
        total += sum(batch.count * batch.length for batch in trained) * (4 * model.states_width + 12 * model.width)
    if model.lexical_head is not None:
        words = _vocabulary(model) * (asked * (model.base.dtype.itemsize + 8) + 12)
        total += sum(batch.count for batch in trained) * words
    return total


def held_bytes(model: EmbeddingModel, batches: Sequence[MicroBatch]) -> int:
    """Return what the vectors of a step take, with their gradients, where it is computed twice."""
    trained = [batch for batch in batches if not batch.frozen]
    tokens = sum(batch.count * batch.length for batch in trained) if model.multi else 0
    words = _vocabulary(model) if model.lexical_head is not None else 0
    return 8 * (tokens * model.width + sum(batch.count for batch in trained) * words)


def _vocabulary(model: EmbeddingModel) -> int:
    config: Any = model.base.config
    return int(config.get_text_config().vocab_size)
