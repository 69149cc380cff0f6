"""Search by words and dense vectors together: an inverted index beside any gallery, and one weight between the two.

A row's score is its cosine and `weight` times its lexical one. Neither list is cut by guess: the best rows of both are
scored whole, and more are asked for until no other can be among the answers (the threshold algorithm, Fagin, Lotem and
Naor, PODS 2001). Of an exact gallery the answers are exact; of an index they are as good as its own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from ..data.filters import Filter, as_filter
from ..data.picture_source import picture_folder
from ..errors import ConfigError, DataError
from ..saving.provenance import LEXICAL, SPACE_FIELDS, check_same
from ..store.exact import Answer
from ..store.gallery import Gallery, MemoryGallery, StoreGallery
from ..store.kept.lexical import read_lexical
from ..store.lookup import check_queries
from ..store.vector_store import VectorStore
from ..types import Query
from .searcher import Hit, Searcher, Where, folder_metadata

if TYPE_CHECKING:
    import os

    from ..encode.embedder import MLLMEmbedder

_DEPTH = 100  # rows of each list that are looked at first
_MORE = 4  # times as many, where those do not settle it
_SHOWN = 8  # words of an explanation
Shared = list[tuple[int, float, float]]
"""Words that a query and a row share, with the weight of each, the heaviest product first."""


class LexicalRows:
    """The lexical vectors of a gallery's rows, by word: a query looks at the rows that have one of its words alone."""

    def __init__(self, ids: Sequence[str], vectors: csr_array, gallery: Gallery):
        """Index rows.

        Args:
            ids: [N].
            vectors: [N, V] float32, 0 or more.
            gallery: whose rows they are, as it is now.
        """
        self.ids, self.vectors = list(ids), vectors
        self._state = _state_of(gallery)
        self._row_of = {name: row for row, name in enumerate(self.ids)}
        self._by_word = vectors.tocsc()

    @classmethod
    def of(cls, gallery: Gallery) -> LexicalRows:
        """Return those of the store that a gallery searches, as it is now. Raises ConfigError for a gallery that is no
        store or index, DataError for a store without."""
        store = _store_of(gallery)
        alive = np.flatnonzero(store.alive)
        return cls([store.ids[row] for row in alive], read_lexical(store)[alive], gallery)

    def check(self, gallery: Gallery) -> None:
        """Raise DataError for a gallery to which rows came since, or from which some went."""
        if _state_of(gallery) != self._state:
            raise DataError("rows came to this gallery, or went, since its lexical vectors were read: open it again")

    def scores(self, query: csr_array) -> np.ndarray:
        """Return the lexical cosines [N] float32 of a query [1, V] with all rows."""
        found: np.ndarray = self._by_word[:, query.indices] @ query.data
        return found

    def row(self, id: str) -> int:
        """Return the number of a row. Raises DataError for one that came to the gallery since."""
        if id not in self._row_of:
            raise DataError(f'"{id}" has no lexical vector, since it came to the gallery later: open that again')
        return self._row_of[id]

    def shared(self, query: csr_array, id: str) -> Shared:
        """Return the words that a query [1, V] shares with a row: the products add up to the row's lexical cosine."""
        row = self.vectors[[self.row(id)]]
        weights = dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))
        asked = zip(query.indices.tolist(), query.data.tolist(), strict=True)
        both = [(word, weight, weights[word]) for word, weight in asked if word in weights]
        return sorted(both, key=lambda one: -one[1] * one[2])


def check_lexical(gallery: Gallery | None, weight: float | None) -> None:
    """Raise ConfigError for a weight that is no number over 0, and for a gallery that keeps no lexical vectors. Without
    a weight none are asked for; no gallery is one of pictures, which get theirs."""
    if weight is None:
        return
    _check_weight(weight)
    if gallery is not None:
        _store_of(gallery)


def _store_of(gallery: Gallery) -> VectorStore:
    if not isinstance(gallery, StoreGallery):
        raise ConfigError(
            "lexical vectors lie in stores, and this gallery is none: search the store that `mllm-embed encode` made"
        )
    if LEXICAL not in gallery.store.provenance:
        raise ConfigError(
            f"{gallery.store.folder} was made without lexical vectors: encode a new store with a model that has them "
            "(--lexical-words), or search with dense vectors alone"
        )
    return gallery.store


def _check_weight(weight: float) -> None:
    """Raise ConfigError for a weight that is no number over 0."""
    if not (math.isfinite(weight) and weight > 0):
        raise ConfigError(f"the weight of lexical scores must be a number over 0, not {weight}")


def _state_of(gallery: Gallery) -> tuple[int, int]:
    """Return what is another where rows came or went: how many there ever were, and how many are there."""
    rows = gallery.store.ids if isinstance(gallery, StoreGallery) else getattr(gallery, "vectors", ())
    return len(rows), len(gallery)


class FusedGallery:
    """A gallery whose scores are dense and lexical ones together, for queries whose words are known."""

    def __init__(self, gallery: Gallery, rows: LexicalRows, words: csr_array, weight: float):
        """Search a gallery.

        Args:
            gallery: of dense vectors.
            rows: the lexical ones of its rows.
            words: [Q, V] float32, those of the queries that `nearest` will be asked.
            weight: of a lexical cosine beside a dense one, over 0.
        """
        self.gallery, self.rows, self.words, self.weight = gallery, rows, words, weight

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
        where: Filter | None = None,
    ) -> list[Answer]:
        """Return the best k rows for each query by both scores, as `Gallery.nearest`. Raises as that, and as
        `LexicalRows.check`."""
        check_queries(queries.shape[-1], queries, k, exclude)
        self.rows.check(self.gallery)
        never: Sequence[Collection[str]] = exclude or [()] * len(queries)
        found = []
        for row in range(len(queries)):
            limits = {"allow": allow, "exclude": [never[row]], "where": where}
            found.append(self._nearest(queries[[row]], self.rows.scores(self.words[[row]]), k, limits))
        return found

    def _nearest(self, query: np.ndarray, lexical: np.ndarray, k: int, limits: Mapping[str, Any]) -> Answer:
        depth = max(k, _DEPTH)
        order = np.argsort(-lexical, kind="stable")
        while True:
            [near] = self.gallery.nearest(query, depth, **limits)
            scores = dict(near)
            named = [self.rows.ids[row] for row in order[:depth] if lexical[row] > 0]
            scores |= self._scored(query, [name for name in named if name not in scores], limits)
            both = {name: score + self.weight * float(lexical[self.rows.row(name)]) for name, score in scores.items()}
            best = sorted(both.items(), key=lambda one: (-one[1], self.rows.row(one[0])))[:k]
            if len(near) < depth:  # those are all that may answer
                return best
            others = float(lexical[order[depth]]) if depth < len(order) else 0.0
            if best[-1][1] > near[-1][1] + self.weight * max(others, 0.0):
                return best
            depth *= _MORE

    def _scored(self, query: np.ndarray, names: Sequence[str], limits: Mapping[str, Any]) -> dict[str, float]:
        """Return the dense scores of those of some rows that may answer."""
        allow = limits["allow"]
        asked = names if allow is None else [name for name in names if name in allow]
        if not asked:
            return {}
        [found] = self.gallery.nearest(query, len(asked), **{**limits, "allow": asked})
        return dict(found)

    def __len__(self) -> int:
        """Return the number of rows that can be found."""
        return len(self.gallery)

    def __getattr__(self, name: str) -> Any:
        """Return all else as the gallery has it."""
        return getattr(self.gallery, name)


class LexicalSearcher:
    """A search by dense and lexical vectors of one model."""

    def __init__(self, searcher: Searcher, rows: LexicalRows, weight: float):
        """Search what a searcher does, with the words of its rows.

        Args:
            searcher: of a model that has lexical vectors.
            rows: of the searcher's gallery.
            weight: of a lexical cosine beside a dense one.

        Raises ConfigError for a weight that is no number over 0, a model without lexical vectors, and rows of another.
        """
        _check_weight(weight)
        embedder: Any = searcher.embedder
        if getattr(getattr(embedder, "settings", None), "lexical", None) is None:
            raise ConfigError("the model of this search has no lexical vectors: load one that was trained for them")
        check_same(searcher.gallery.provenance, embedder.provenance, (*SPACE_FIELDS, LEXICAL), "the gallery")
        self.searcher, self.rows, self.weight = searcher, rows, weight
        self.embedder: MLLMEmbedder = embedder

    @classmethod
    def over(cls, searcher: Searcher, weight: float) -> LexicalSearcher:
        """Search a store, or an index of one, with the lexical vectors there. Raises as `LexicalRows.of`."""
        return cls(searcher, LexicalRows.of(searcher.gallery), weight)

    @classmethod
    def from_folder(
        cls, embedder: MLLMEmbedder, path: str | os.PathLike[str], weight: float, *, batch_size: int = 32
    ) -> LexicalSearcher:
        """Embed the pictures of a folder in both ways, as `Searcher.from_folder`."""
        _check_weight(weight)  # before all is embedded
        source = picture_folder(path)
        documents = [source.read(row)[0] for row in range(len(source.ids))]
        vectors, words = embedder.encode_both(documents, batch_size=batch_size)
        gallery = MemoryGallery(source.ids, vectors, source.files, embedder.provenance, folder_metadata(source))
        return cls(Searcher(embedder, gallery), LexicalRows(source.ids, words, gallery), weight)

    def search(
        self,
        query: Query,
        k: int = 5,
        exclude: Collection[str] = (),
        *,
        allow: Collection[str] | None = None,
        exclude_reference: bool = False,
        where: Where | None = None,
    ) -> list[Hit]:
        """Return the k best pictures for a query by both scores, as `Searcher.search`; each hit has the lexical cosine
        of which `weight` times is in its score, and the words that made it."""
        vector, words = self.embedder.encode_both([query], show_progress=False)
        fused = copy(self.searcher)
        fused.gallery = FusedGallery(self.searcher.gallery, self.rows, words, self.weight)
        own = query.images if exclude_reference else ()
        hits = fused.find(vector, k, exclude, allow=allow, where=as_filter(where), other_than=own)
        return [replace(hit, words=self.named(self.rows.shared(words, hit.id))) for hit in hits]

    def explained(self, hits: Sequence[Hit]) -> str:
        """Return what made the score of each hit, to the number: its dense cosine, and each word that query and picture
        share, with the weight in either and their product."""
        lines = [f"what made the scores: dense cosine + {self.weight:g} x (weight in query x weight in answer, summed)"]
        for rank, hit in enumerate(hits, 1):
            lexical = sum(asked * found for _, asked, found in hit.words)
            parts = [f"{word} {asked:.3f} x {found:.3f} = {asked * found:.3f}" for word, asked, found in hit.words]
            more = f"; {len(parts) - _SHOWN:,} more words" if len(parts) > _SHOWN else ""
            dense = hit.score - self.weight * lexical
            lines.append(
                f"{rank:5d}  {hit.score:.3f} = {dense:.3f} + {self.weight:g} x {lexical:.3f}: "
                f"{', '.join(parts[:_SHOWN])}{more}"
            )
        return "\n".join(lines)

    def named(self, shared: Iterable[tuple[int, float, float]]) -> tuple[tuple[str, float, float], ...]:
        """Return shared words as the tokenizer writes them, with both weights."""
        tokenizer = self.embedder.processor.tokenizer
        return tuple((tokenizer.decode([word]).strip(), asked, found) for word, asked, found in shared)
