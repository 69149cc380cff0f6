"""Search: queries in, the pictures of a gallery that fit them out."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from ..data.filters import Filter, as_filter
from ..data.kept import check_names
from ..data.picture_source import PictureSource, picture_folder
from ..data.sources import picture_at
from ..encode.encoder import Encoder, check_single, check_unit_length, several_of
from ..errors import DataError, ImageError, UnknownIdError
from ..inputs.images import content_key
from ..saving.provenance import SEARCH_FIELDS, check_same
from ..store.gallery import Answer, Gallery, MemoryGallery
from ..store.kept.column_values import column_of
from ..store.several.gallery import MultiGallery
from ..types import Document, ImageLike, Query
from .composition import Composition
from .places import stored_gallery
from .reranking import DEPTH, Judge, reranked
from .sessions.session import DEFAULT_RULE, Session

Where = Filter | Mapping[str, Any]
"""A filter, or what says one: {"price": {"<": 40}}."""
_ITSELF = ("id", "image", "text", "caption")
"""What an entry of a benchmark's gallery is; all else is said of it."""
_TRIES = 5  # of a search whose answers are removed meanwhile
_MORE = 8  # answers that are asked for beyond those wanted, since some may be the reference


@dataclass(frozen=True)
class Hit:
    """A found picture.

    Args:
        id: its gallery id.
        score: its cosine; of several vectors MaxSim.
        image: where it is, None where that is not known.
        metadata: what is kept beside its vector, by the names of the columns.
        judged: the score of a re-ranker; None where none judged it.
        words: those that a lexical search found in query and picture, with the weight in either; the products add up
            to the lexical cosine.
    """

    id: str
    score: float
    image: ImageLike | None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    judged: float | None = None
    words: tuple[tuple[str, float, float], ...] = ()


class Searcher:
    """A gallery and the model that made its vectors: queries in, pictures out."""

    def __init__(self, embedder: Encoder, gallery: Gallery) -> None:
        """Search a gallery.

        Args:
            embedder: encodes the queries.
            gallery: in memory, a store, an index, a Qdrant collection, or a PostgreSQL table.

        Raises:
            ConfigError: the gallery's vectors were made by another model, adapter or prompt, or the model's are shorter
                than 1.
        """
        if not isinstance(gallery, MultiGallery):
            check_single(embedder, "this gallery")
        check_unit_length(embedder, "a search")
        check_same(gallery.provenance, _target_space(embedder, gallery), SEARCH_FIELDS, "the gallery")
        self.embedder, self.gallery = embedder, gallery

    @classmethod
    def open(
        cls,
        embedder: Encoder,
        place: str | os.PathLike[str],
        *,
        batch_size: int = 32,
        show_progress: bool | None = None,
        verify: bool = True,
    ) -> Searcher:
        """Search what is at `place`.

        That is what `mllm-embed encode` or `mllm-embed index` wrote, a Qdrant collection ("qdrant:http://localhost:6333/
        photos"), a PostgreSQL table ("postgresql://localhost/shop#photos"), or a folder of pictures, which is embedded
        now, as `from_folder` does. Without `verify` the checksums of vectors on disk are not compared, as of
        `VectorStore.open` and `Index.open`.

        Raises:
            DataError: the place is none of these, or is damaged.
            ConfigError: as `Searcher`.
        """
        gallery = stored_gallery(place, verify)
        if gallery is None:
            return cls.from_folder(embedder, place, batch_size=batch_size, show_progress=show_progress)
        return cls(embedder, gallery)

    @classmethod
    def from_folder(
        cls,
        embedder: Encoder,
        path: str | os.PathLike[str],
        *,
        batch_size: int = 32,
        show_progress: bool | None = None,
    ) -> Searcher:
        """Embed the gallery of a folder's benchmark.json, or else every picture in the folder and below, in memory.

        A text that benchmark.json gives a picture is embedded with it; what else it says of one is kept to filter by.

        Raises:
            DataError: the folder is missing or holds no picture, or the name of one is no Unicode.
            ImageError: a picture cannot be read.
        """
        check_single(embedder, "a folder searched without `mllm-embed encode` before")
        source = picture_folder(path)
        documents = [source.read(row)[0] for row in range(len(source.ids))]
        vectors = embedder.encode(documents, batch_size=batch_size, show_progress=show_progress)
        return cls(embedder, MemoryGallery(source.ids, vectors, source.files, metadata=folder_metadata(source)))

    def search(
        self,
        query: Query,
        k: int = 5,
        exclude: Collection[str] = (),
        *,
        allow: Collection[str] | None = None,
        exclude_reference: bool = False,
        edit_strength: float = 1.0,
        where: Where | None = None,
        reranker: Judge | None = None,
        depth: int = DEPTH,
        weight: float = 0.0,
    ) -> list[Hit]:
        """Return the k best pictures for a query, fewer in a small gallery.

        Args:
            query: image, text, or image and instruction, and perhaps what to avoid.
            k: how many.
            exclude: ids that may not answer.
            allow: the only ids that may.
            exclude_reference: leave out pictures whose file is the query's own, byte for byte, whatever their ids.
            edit_strength: as of `Composition`.
            where: only pictures whose metadata fits this may answer: {"price": {"<": 40}, "size": ["S", "M"]}, as
                `filters.parse_filter` reads it.
            reranker: puts the first `depth` answers in an order of its own, as `reranked` does; by default none does.
            depth, weight: as of `reranked`.

        Raises:
            DataError: k < 1, an id that is not in the gallery, or a filter that does not fit its columns.
        """
        vector = self._asks([Composition(query, edit_strength)])
        own = query.images if exclude_reference else ()
        if reranker is None:
            return self.find(vector, k, exclude, allow=allow, where=where, other_than=own)
        hits = self.find(vector, max(k, depth), exclude, allow=allow, where=where, other_than=own)
        return reranked(reranker, query, hits, depth, weight)[:k]

    def find(
        self,
        vector: np.ndarray,
        k: int = 5,
        exclude: Collection[str] = (),
        *,
        allow: Collection[str] | None = None,
        where: Where | None = None,
        other_than: Sequence[ImageLike] = (),
    ) -> list[Hit]:
        """Return the k best pictures for a query's vector, which somebody else has embedded, as `search` does.

        Args:
            vector: [1, D] float32 of unit length, as of `Composition.vector`.
            k, exclude, allow, where: as of `search`.
            other_than: leave out pictures whose file is one of these, byte for byte, whatever their ids.

        Raises:
            DataError: k < 1, or an id that is not in the gallery.
        """
        own, fits = set(map(content_key, other_than)), as_filter(where)
        # how many copies of the reference there are shows only in the answers: more are asked for until k others came
        asked = k + (_MORE if own else 0)
        while True:
            [found] = self._answers(vector, asked, allow, [list(exclude)], fits)
            hits = _other_pictures(found, own)
            if len(hits) >= k or len(found) < asked:
                return hits[:k]
            asked *= 2

    def _asks(self, asked: Sequence[Composition], batch_size: int = 32) -> Any:
        """Return what the gallery is searched with: vectors [Q, D] float32, or the several of each query."""
        items = [question.items for question in asked]
        if isinstance(self.gallery, MultiGallery):
            edited = next((one for one in asked if len(one.items) > 1), None)
            if edited is not None:
                check_single(self.embedder, f"edit strength {edited.edit_strength:g}")
            return several_of(self.embedder, [one for [one] in items], batch_size=batch_size, show_progress=False)
        found = self.embedder.encode(list(chain.from_iterable(items)), batch_size=batch_size, show_progress=False)
        parts = np.split(found, np.cumsum([len(part) for part in items])[:-1])
        return np.concatenate([question.vector(part) for question, part in zip(asked, parts, strict=True)])

    def search_many(
        self,
        queries: Sequence[Query],
        k: int = 5,
        *,
        allow: Collection[str] | None = None,
        batch_size: int = 32,
        edit_strength: float = 1.0,
        where: Where | None = None,
    ) -> list[list[Hit]]:
        """Return the k best pictures for each of several queries, as `search` does, but at once, which is quicker.

        Args:
            queries: image, text, or image and instruction each.
            k, allow, edit_strength, where: as of `search`, for all of them.
            batch_size: as of `MLLMEmbedder.encode`.

        Raises:
            DataError: k < 1, or an id that is not in the gallery.
        """
        if not queries:
            return []
        asked = [Composition(query, edit_strength) for query in queries]
        return self._answers(self._asks(asked, batch_size), k, allow, None, as_filter(where))

    def session(self, rule: str = DEFAULT_RULE, *, task: str | None = None, **settings: float) -> Session:
        """Return a search of several turns, of which each adds to what was said before.

        Args and errors are those of `Session`: the rule that carries the past, a task, settings of the rule; and
        ConfigError for a model that makes several vectors of an input.
        """
        check_single(self.embedder, "a session")
        return Session(self, rule, task=task, **settings)

    def _answers(
        self,
        vectors: Any,
        k: int,
        allow: Collection[str] | None,
        exclude: Sequence[Collection[str]] | None,
        where: Filter | None,
    ) -> list[list[Hit]]:
        """Return what the gallery answers, with its pictures. Others may remove a row before its own is looked up: then
        it is asked again."""
        tries = 0
        while True:
            found = self.gallery.nearest(vectors, k, allow=allow, exclude=exclude, where=where)
            try:
                return [self._hits(answer) for answer in found]
            except UnknownIdError:
                tries += 1
                if tries == _TRIES:
                    raise

    def _hits(self, found: Answer) -> list[Hit]:
        """Return what a gallery answered, with its pictures."""
        names = [name for name, _ in found]
        beside = zip(found, self.gallery.sources(names), self.gallery.metadata(names), strict=True)
        return [Hit(name, score, _picture(place), kept) for (name, score), place, kept in beside]

    def picture(self, id: str) -> ImageLike | None:
        """Return the picture of a row, None where it is not known or gone. Raises DataError for an unknown id."""
        return _picture(self.gallery.sources([id])[0])

    def add(
        self,
        pictures: Mapping[str, str | os.PathLike[str]],
        batch_size: int = 32,
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Embed picture files and add them to the gallery, by their ids; a store, index or collection keeps them.

        Nothing is added where it raises anything.

        Args:
            pictures: the file of each id.
            batch_size: as of `MLLMEmbedder.encode`.
            metadata: what is to be kept beside some of them, by their ids, as `Columns.of` takes it.

        Raises:
            DataError: an id is there already, or metadata is of none of the pictures, or cannot be kept.
            ImageError: a picture cannot be read.
        """
        kept = metadata or {}
        stray = next((name for name in kept if name not in pictures), None)
        if stray is not None:
            raise DataError(f'metadata of "{stray}" is given, and no picture of that id')
        vectors = self.embedder.encode(
            [Document(image=path) for path in pictures.values()], batch_size=batch_size, show_progress=False
        )
        places = [os.path.abspath(path) for path in pictures.values()]
        rows = [kept.get(name, {}) for name in pictures] if kept else None
        self.gallery.add(list(pictures), vectors, places, rows)

    def remove(self, ids: Collection[str]) -> None:
        """Take pictures out of the gallery. Raises DataError for one that is not there, and removes none."""
        self.gallery.remove(ids)


def folder_metadata(source: PictureSource) -> list[dict[str, Any]] | None:
    """Return what a folder's benchmark.json says of each picture beside itself, None where that is nothing.

    Columns that no gallery could keep are left out, since nobody has asked for them: nested ones, say.
    """
    columns: dict[str, list[Any]] = {}
    found = source.kept([name for name in source.keepable() if name not in _ITSELF])
    for name, values in (found or {}).items():
        try:
            check_names([name])
            column_of(name, values)
        except DataError:
            continue
        columns[name] = values
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)] or None


def _target_space(embedder: Encoder, gallery: Gallery) -> Mapping[str, Any]:
    """Return what made the vectors that an embedder's queries are to find; one that does not say fits any gallery."""
    space: Mapping[str, Any] | None = getattr(embedder, "target_space", None)
    provenance: Mapping[str, Any] = getattr(embedder, "provenance", gallery.provenance)
    return space or provenance


def _picture(place: ImageLike | None) -> ImageLike | None:
    """Return a picture, or where it lies; None also where the file that held it is gone: the answer stays right."""
    try:
        return picture_at(place) if isinstance(place, str) else place
    except DataError:
        return None


def _other_pictures(hits: list[Hit], contents: set[str]) -> list[Hit]:
    """Return the hits that show none of these contents, as `content_key` tells them."""
    return [hit for hit in hits if _content(hit.image) not in contents] if contents else hits


def _content(image: ImageLike | None) -> str | None:
    """Return what pictures of equal bytes share; None where there is no picture or it cannot be read."""
    try:
        return None if image is None else content_key(image)
    except ImageError:
        return None
