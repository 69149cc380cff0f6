"""The re-ranker that a user names beside an embedder: on its very base where it belongs there, or a model apart."""

from __future__ import annotations

from pathlib import Path

from ..encode.embedder import MLLMEmbedder
from ..model.lora import ADAPTER_CONFIG
from ..model.quantization import quantization_of
from ..saving.base_lookup import base_of
from ..saving.hub import small_files
from .reranker import Reranker


def reranker_for(name: str, embedder: MLLMEmbedder) -> Reranker:
    """Return the re-ranker in a folder or of a hub id.

    An adapter of the embedder's own base, which is still apart, shares its weights. Any other is loaded in the
    embedder's number format, quantised as it is, and on its device. Raises as `Reranker.from_pretrained`.
    """
    folder = small_files(name)
    if (Path(folder) / ADAPTER_CONFIG).is_file() and _shares(folder, embedder):
        return Reranker.beside(embedder, name)
    quantization = quantization_of(embedder.model.base)
    return Reranker.from_pretrained(name, dtype=embedder.dtype, quantization=quantization, device=embedder.device)


def _shares(folder: str, embedder: MLLMEmbedder) -> bool:
    """Return whether the base of an adapter is the embedder's own, with nothing merged into it."""
    base = embedder.settings.base
    if base is None or (embedder.settings.adapter and not embedder.model.adapted) or embedder.model.bidirectional:
        return False
    named = base_of(folder)[0]
    return named == base or Path(named).resolve() == Path(base).resolve()
