"""The heads of a saved folder: read, written, and told from others'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...errors import ModelError
from .latent_attention import (
    LATENT_FOLDER,
    LatentAttention,
    read_latent_attention,
    write_latent_attention,
)
from .module_files import head_identity
from .projection import PROJECTION_FOLDER, Projection, read_projection, write_projection
from .token_learner import LEARNER_FOLDER, TokenLearner, read_token_learner, write_token_learner

HEAD_FILES = (f"{PROJECTION_FOLDER}*/*", f"{LATENT_FOLDER}/*", f"{LEARNER_FOLDER}/*", "*_Dense/*")
"""Patterns of the files of heads, as `write_heads` and sentence-transformers write them."""


class Heads(NamedTuple):
    """What a model has beside its base; None for what it has not."""

    projection: Projection | None = None
    latent_attention: LatentAttention | None = None
    token_learner: TokenLearner | None = None


def read_heads(folder: Path) -> Heads:
    """Return the heads of a saved folder, frozen. Raises ModelError for damaged ones."""
    return Heads(read_projection(folder), read_latent_attention(folder), read_token_learner(folder))


def check_tokens(heads: Heads, tokens: int | None, folder: Path) -> None:
    """Raise ModelError where a folder's token learner makes others than the `tokens` that its settings say, None for
    those of the base, or got lost."""
    there = heads.token_learner.spec.tokens if heads.token_learner else None
    if there != tokens:
        said, found = (f"{count} learned tokens" if count else "no learned tokens" for count in (tokens, there))
        raise ModelError(
            f"the settings in {folder} say {said} a picture, and there is {LEARNER_FOLDER} with {found}; fetch or save "
            "the model again"
        )


def write_heads(folder: Path, heads: Heads) -> None:
    """Write a model's heads, each into a folder of its own."""
    if heads.projection is not None:
        write_projection(folder, heads.projection)
    if heads.latent_attention is not None:
        write_latent_attention(folder, heads.latent_attention)
    if heads.token_learner is not None:
        write_token_learner(folder, heads.token_learner)


def heads_identity(folder: Path) -> Iterator[bytes]:
    """Yield bytes that tell a folder's heads from others'; none where it has none. Raises ModelError for damaged
    ones."""
    projection = read_projection(folder)
    if projection is not None:
        yield from projection.identity
    yield from map(head_identity, (folder / LATENT_FOLDER, folder / LEARNER_FOLDER))
