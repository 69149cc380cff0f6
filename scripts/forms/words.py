"""Forms of lexical vectors: an inverted index of words, alone and beside dense vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mllm_embed.search.lexical import FusedGallery, LexicalRows
from mllm_embed.store.gallery import MemoryGallery

from .built import Built, Untrained, best
from .models import Both
from .single import BYTES, Numbers, kept


def _rows(gallery: Both, dtype: str) -> tuple[MemoryGallery, LexicalRows]:
    """Return a gallery whose ids are its rows' numbers."""
    ids = [f"{row}" for row in range(len(gallery.dense))]
    memory = MemoryGallery(ids, kept(gallery.dense, dtype), [f"{name}.jpg" for name in ids])
    return memory, LexicalRows(ids, gallery.words, memory)


def _bytes(gallery: Both) -> float:
    """Return the bytes of a picture's words as a store has them: a number and a weight of four bytes each."""
    words = gallery.words
    return (words.data.nbytes + words.indices.nbytes) / words.shape[0]


@dataclass(frozen=True)
class Words(Untrained):
    """Words alone."""

    def build(self, gallery: Both, folder: Path) -> Built:
        """As `Form.build`."""
        _, rows = _rows(gallery, "float32")

        def search(queries: Both, count: int) -> np.ndarray:
            asked = queries.words
            return best(np.stack([rows.scores(asked[[at]]) for at in range(asked.shape[0])]), count)

        return Built(_bytes(gallery), 0, search)


@dataclass(frozen=True)
class Fused(Untrained):
    """Dense vectors of a number format, and so many times the lexical cosine beside theirs."""

    weight: float
    dtype: str = "float32"

    def build(self, gallery: Both, folder: Path) -> Built:
        """As `Form.build`."""
        memory, rows = _rows(gallery, self.dtype)

        def search(queries: Both, count: int) -> np.ndarray:
            found = FusedGallery(memory, rows, queries.words, self.weight).nearest(queries.dense, count)
            return np.array([[int(name) for name, _ in answer] for answer in found])

        return Built(BYTES[self.dtype] * gallery.dense.shape[1] + _bytes(gallery), 0, search)


@dataclass(frozen=True)
class Dense(Untrained):
    """The dense vectors alone of a model that has lexical ones too."""

    dtype: str

    def build(self, gallery: Both, folder: Path) -> Built:
        """As `Form.build`."""
        built = Numbers(self.dtype).build(gallery.dense, folder)
        return replace(built, search=lambda queries, count: built.search(queries.dense, count))
