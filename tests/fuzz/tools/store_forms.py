"""Stores in each form that a row of one may have: one vector, several, or one with lexical vectors beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from mllm_embed import MLLMEmbedder, VectorStore
from mllm_embed.model.embedding_model import EmbeddingModel
from mllm_embed.store.files import read_record, write_shard
from mllm_embed.store.kept.lexical import read_lexical, write_lexical

SIZE, SHARDS = 8, (4, 4, 2)


def multi(embedder: MLLMEmbedder) -> MLLMEmbedder:
    """Return a model of the same weights that makes a vector a token."""
    model = EmbeddingModel(embedder.model.backbone, embedder.family, "multi")
    return MLLMEmbedder(model, embedder.processor, embedder.settings.pooling_by("multi"))


MODELS: dict[str, Callable[[MLLMEmbedder], MLLMEmbedder]] = {
    "dense": lambda embedder: embedder,
    "several": multi,
    "lexical": lambda embedder: embedder.with_lexical(9),
}


def unit(rows: int, seed: int, size: int = SIZE) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_store(
    folder: Path, form: str = "dense", dtype: str = "float32", size: int = SIZE, shards: tuple[int, ...] = SHARDS
) -> VectorStore:
    """Write a store, with two removed rows, as `encode` writes one of this form."""
    store = VectorStore.create(folder, size, dtype=dtype, provenance={"base": "b"})
    for number, rows in enumerate(shards):
        name, ids = f"{number:06d}", [f"{number}-{at}" for at in range(rows)]
        counts = [1 + (number + at) % 3 for at in range(rows)] if form == "several" else None
        words = csr_array(np.abs(unit(rows, 50 + number, 12)) * (np.arange(12) % 3 > 0)) if form == "lexical" else None
        write_shard(
            folder, name, store.dtype, ids, unit(sum(counts or [1] * rows), number, size),
            [f"/p/{id}.jpg" for id in ids], counts=counts, lexical=write_lexical(folder, name, words),
        )  # fmt: skip
    store.commit(f"{number:06d}" for number in range(len(shards)))
    store.remove(["1-2", "0-1"])
    return store


def vectors_of(store: VectorStore) -> list[bytes]:
    """Return what a store keeps of each row, removed ones too, as it is read: its vectors, and its words if any."""
    if store.shards[0].vectors is not None:
        return [row.tobytes() for shard in range(len(store.shards)) for row in store.several(shard)]
    rows = list(store.rows(0, len(store)))
    if read_record(store.folder, store.shards[0]).lexical is not None:
        rows = [np.concatenate(pair) for pair in zip(rows, read_lexical(store).toarray(), strict=True)]
    return [row.tobytes() for row in rows]
