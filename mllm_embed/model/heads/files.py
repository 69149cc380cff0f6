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
from .lexical_head import LEXICAL_FOLDER, Lexical, LexicalHead, read_lexical_head, write_lexical_head
from .module_files import head_identity
from .projection import PROJECTION_FOLDER, Projection, read_projection, write_projection
from .token_learner import LEARNER_FOLDER, TokenLearner, read_token_learner, write_token_learner

HEAD_FILES = (
    f"{PROJECTION_FOLDER}*/*", f"{LATENT_FOLDER}/*", f"{LEARNER_FOLDER}/*", f"{LEXICAL_FOLDER}/*", "*_Dense/*",
)  # fmt: skip
"""Patterns of the files of heads, as `write_heads` and sentence-transformers write them."""


class Heads(NamedTuple):
    """What a model has beside its base; None for what it has not."""

    projection: Projection | None = None
    latent_attention: LatentAttention | None = None
    token_learner: TokenLearner | None = None
    lexical_head: LexicalHead | None = None


def read_heads(folder: Path) -> Heads:
    """Return the heads of a saved folder, frozen. Raises ModelError for damaged ones."""
    return Heads(
        read_projection(folder), read_latent_attention(folder), read_token_learner(folder), read_lexical_head(folder)
    )


def check_heads(heads: Heads, tokens: int | None, lexical: Lexical | None, folder: Path) -> None:
    """Raise ModelError where a folder's heads are others than its settings say, or got lost: a token learner that makes
    so many `tokens`, None for those of the base, and the head of `lexical` vectors."""
    rank, own = lexical.rank if lexical else 0, heads.lexical_head.spec.rank if heads.lexical_head else 0
    if rank != own:
        raise ModelError(
            f"the settings in {folder} say a lexical head of rank {rank}, and there is {LEXICAL_FOLDER} with rank "
            f"{own}; fetch or save the model again"
        )
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
    if heads.lexical_head is not None:
        write_lexical_head(folder, heads.lexical_head)


def heads_identity(folder: Path) -> Iterator[bytes]:
    """Yield bytes that tell a folder's heads from others'; none where it has none. Raises ModelError for damaged
    ones."""
    projection = read_projection(folder)
    if projection is not None:
        yield from projection.identity
    yield from map(head_identity, (folder / name for name in (LATENT_FOLDER, LEARNER_FOLDER, LEXICAL_FOLDER)))
