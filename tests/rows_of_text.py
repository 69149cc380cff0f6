"""Sources of a few words each, and what a store that holds them must say."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mllm_embed import MLLMEmbedder
from mllm_embed.data.sources import open_sources
from mllm_embed.store.extract import Extracted, encode_sources
from mllm_embed.store.vector_store import VectorStore


def write_rows(path: Path, rows: Mapping[str, str]) -> Path:
    """Write words by their ids as JSON lines."""
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in rows.items()))
    return path


def encode(embedder: MLLMEmbedder, source: Path, store: Path, size: int = 3) -> Extracted:
    return encode_sources(embedder, open_sources([source]), store, shard_rows=size, show_progress=False)


class Vectors:
    """The vector of each text, embedded once."""

    def __init__(self, embedder: MLLMEmbedder):
        self.embedder = copy.copy(embedder)  # a test may change how its own embeds
        self._known: dict[str, np.ndarray] = {}

    def __getitem__(self, text: str) -> np.ndarray:
        if text not in self._known:
            self._known[text] = self.embedder.encode([text], show_progress=False)[0]
        return self._known[text]


def check_rows(store: Path, rows: Mapping[str, str], vectors: Vectors, exactly: bool = True) -> None:
    """Assert that a store is whole, and holds these words by their ids."""
    read = VectorStore.open(store)
    read.verify()
    living = set(read.living)
    assert living == set(rows) if exactly else living >= set(rows)
    if rows:
        found = read.take(np.array([read.position(name) for name in rows]))
        wrong = np.abs(found - np.stack([vectors[text] for text in rows.values()])).max(axis=1) > 1e-4
        assert not wrong.any(), dict(
            zip(np.array(list(rows))[wrong], np.array(list(rows.values()))[wrong], strict=True)
        )
