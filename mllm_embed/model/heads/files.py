"""The heads of a saved folder: read, written, and told from others'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .latent_attention import (
    LATENT_FOLDER,
    LatentAttention,
    latent_identity,
    read_latent_attention,
    write_latent_attention,
)
from .projection import PROJECTION_FOLDER, Projection, read_projection, write_projection

HEAD_FILES = (f"{PROJECTION_FOLDER}*/*", f"{LATENT_FOLDER}/*", "*_Dense/*")
"""Patterns of the files of heads, as `write_heads` and sentence-transformers write them."""


def read_heads(folder: Path) -> tuple[Projection | None, LatentAttention | None]:
    """Return the heads of a saved folder, frozen; None for what it has not. Raises ModelError for damaged ones."""
    return read_projection(folder), read_latent_attention(folder)


def write_heads(folder: Path, projection: Projection | None, latent_attention: LatentAttention | None) -> None:
    """Write a model's heads, each into a folder of its own."""
    if projection is not None:
        write_projection(folder, projection)
    if latent_attention is not None:
        write_latent_attention(folder, latent_attention)


def heads_identity(folder: Path) -> Iterator[bytes]:
    """Yield bytes that tell a folder's heads from others'; none where it has none. Raises ModelError for damaged
    ones."""
    projection = read_projection(folder)
    if projection is not None:
        yield from projection.identity
    yield latent_identity(folder)
