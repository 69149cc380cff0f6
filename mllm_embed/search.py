"""Find the pictures of a gallery that fit a query."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .errors import DataError
from .ranking import top_k
from .sources import gallery_of
from .types import Document, ImageLike, Query


class Encoder(Protocol):
    """What is needed of `MLLMEmbedder` here: items in, float32 vectors [N, D] out."""

    def encode(
        self, inputs: Sequence[Query | Document], *, batch_size: int = 32, show_progress: bool | None = None
    ) -> np.ndarray:
        """One vector a row for every input."""
        ...


@dataclass(frozen=True)
class Hit:
    """A found picture: its gallery id, its score (cosine), and where it is."""

    id: str
    score: float
    image: ImageLike


class Searcher:
    """A gallery of embedded pictures, searched exactly; equal scores come in gallery order."""

    def __init__(self, embedder: Encoder, ids: Sequence[str], images: Sequence[ImageLike], vectors: np.ndarray) -> None:
        """Keep the gallery.

        Args:
            embedder: encodes the queries; the one that made the vectors.
            ids: a different name for every picture.
            images: the pictures, as paths or loaded.
            vectors: [N, D] float32, row i for picture i.

        Raises:
            DataError: numbers that differ, an id given twice, no picture at all.
        """
        if not len(ids):
            raise DataError("the gallery is empty: there is nothing to search")
        if not len(ids) == len(images) == len(vectors):
            raise DataError(f"{len(ids)} ids, {len(images)} images and {len(vectors)} vectors do not fit together")
        self.embedder = embedder
        self.ids = list(ids)
        self.images = list(images)
        self.vectors = np.asarray(vectors, dtype=np.float32)
        self._position = {name: position for position, name in enumerate(self.ids)}
        if len(self._position) < len(self.ids):
            twice = next(name for place, name in enumerate(self.ids) if self._position[name] != place)
            raise DataError(f'the gallery id "{twice}" is given twice')

    @classmethod
    def from_folder(
        cls,
        embedder: Encoder,
        path: str | os.PathLike[str],
        *,
        batch_size: int = 32,
        show_progress: bool | None = None,
    ) -> Searcher:
        """Embed the gallery of a folder's benchmark.json, or else every picture in the folder and below.

        Raises:
            DataError: the folder is missing or holds no picture. ImageError: a picture cannot be read.
        """
        gallery = gallery_of(path)
        documents = [Document(image=image) for image in gallery.values()]
        vectors = embedder.encode(documents, batch_size=batch_size, show_progress=show_progress)
        return cls(embedder, list(gallery), list(gallery.values()), vectors)

    def search(self, query: Query, k: int = 5, exclude: Collection[str] = ()) -> list[Hit]:
        """The k best pictures for a query, fewer in a small gallery, never one of the excluded ids.

        Raises:
            DataError: k < 1, or an excluded id that is not in the gallery.
        """
        unknown = [name for name in exclude if name not in self._position]
        if unknown:
            raise DataError(f'the excluded id "{unknown[0]}" is not in the gallery of {len(self.ids)} pictures')
        vector = self.embedder.encode([query], show_progress=False)
        scores, found = top_k(vector, self.vectors, k, [{self._position[name] for name in exclude}])
        pairs = zip(scores[0].tolist(), found[0].tolist(), strict=True)
        return [Hit(self.ids[at], score, self.images[at]) for score, at in pairs if at >= 0]
