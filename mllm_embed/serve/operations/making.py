"""What makes a service: opens a gallery before anything else, and loads the model when the port answers already."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ...data.picture_source import picture_folder
from ...encode.encoder import check_single
from ...errors import ConfigError
from ...search.places import shared, stored_gallery
from ...search.searcher import Searcher
from ...store.gallery import Gallery, StoreGallery
from ...store.several.gallery import MultiGallery
from ...types import Item, Query
from ..fetching import AllowedHost, Fetcher
from ..gallery.kept_pictures import KeptPictures
from ..gallery.locked import LockedGallery
from ..limits import Limits
from ..pictures import PictureReader
from ..service import Service

if TYPE_CHECKING:
    from ...encode.embedder import MLLMEmbedder
    from ...rerank.reranker import Reranker
    from ..access import Access
    from .server import Start

_STORE = "make a store of it with `mllm-embed encode`, and serve that"


@dataclass
class GallerySettings:
    """Which gallery is served.

    Args:
        place: what `Searcher.open` takes; None for none.
        writable: whether rows may be added and removed.
        pictures: folder for the pictures of rows that are added; None for one in the gallery's store.
    """

    place: str | None = None
    writable: bool = False
    pictures: Path | None = None

    def check(self, workers: int) -> None:
        """Raise ConfigError for what does not fit together, or cannot be done by so many processes."""
        self._check_writing()
        if workers == 1 or self.place is None:
            return
        together = shared(self.place)
        if together is False:
            raise ConfigError(f"{self.place} is open to one process at a time: leave out --workers")
        if self.writable and not together:
            raise ConfigError(
                "--writable with several --workers needs a gallery on a server: of any other each worker has a copy of "
                "its own, which would not see what another adds"
            )

    def _check_writing(self) -> None:
        if self.pictures is not None:
            if not self.writable:
                raise ConfigError("--pictures needs --writable: without it no rows are added")
            if self.pictures.exists() and not self.pictures.is_dir():
                raise ConfigError(f"--pictures {self.pictures} is a file; give a folder")
        if self.writable and self.place is None:
            raise ConfigError("--writable needs a GALLERY: there is nothing to write to")

    def open(self) -> Gallery | None:
        """Return a gallery that exists, None for none and for a folder of pictures, which can be read.

        Raises:
            DataError: it is damaged, or not there.
            ConfigError: it cannot be written to, and is to be, or it keeps several vectors a row.
        """
        if self.place is None:
            return None
        gallery = stored_gallery(self.place)
        if isinstance(gallery, MultiGallery):
            raise ConfigError(
                f"{self.place} keeps a vector a token (pooling multi), and a server compares one vector a row: search "
                "it with `mllm-embed search`, or serve a store of a model of single vectors"
            )
        if gallery is not None:
            self.kept(gallery)
            return gallery
        if self.writable:
            raise ConfigError(f"rows that are added to {self.place} would be lost at the end: {_STORE}")
        folder = picture_folder(self.place)
        folder.check()
        sys.stderr.write("".join(f"{note}\n" for note in folder.notes))
        return None

    def kept(self, gallery: Gallery) -> KeptPictures | None:
        """Return where pictures of new rows are kept, None where there are no new rows.

        Raises:
            ConfigError: that is not said, and not known.
        """
        if not self.writable:
            return None
        if self.pictures is not None:
            return KeptPictures(self.pictures)
        if isinstance(gallery, StoreGallery):
            return KeptPictures(gallery.store.folder / "pictures")
        raise ConfigError("--writable needs --pictures: a server keeps no pictures of the rows that are added")


@dataclass
class Making:
    """Makes a service, in this process or in a worker's, to which it is sent.

    Args:
        load_model: loads the model for a process.
        model_name, access, limits, force_dimensions, reranker_name: as of `Service`.
        gallery: which.
        hosts: that pictures may be fetched from.
        batch_size, max_wait: as of `Batcher`.
        reranker: what `rerank.choice.reranker_for` takes; None for none.
        rows: of the gallery, where it was opened.
    """

    load_model: Callable[[Start], MLLMEmbedder]
    model_name: str
    access: Access
    limits: Limits
    gallery: GallerySettings
    force_dimensions: bool = False
    hosts: Sequence[AllowedHost] = ()
    batch_size: int = 32
    max_wait: float = 0.002
    reranker: str | None = None
    reranker_name: str = "reranker"
    rows: int | None = field(default=None, init=False)
    _opened: Gallery | None = field(default=None, init=False)

    def open(self, workers: int) -> None:
        """See that there is what is to be served. Raises as `GallerySettings.check` and `open` do."""
        self.gallery.check(workers)
        gallery = self.gallery.open()
        if gallery is not None:
            self.rows = len(gallery)
        elif workers > 1 and self.gallery.place is not None:
            raise ConfigError(f"each of the workers would embed {self.gallery.place}: {_STORE}")
        if workers == 1:
            self._opened = gallery  # several open their own

    def __call__(self, start: Start) -> Service:
        """Return the service. Raises as `load_model` and `Searcher` do."""
        from ..batcher import Batcher  # torch, which the process that minds several workers does without

        start.progress.doing = "loading the model"
        embedder = self.load_model(start)
        check_single(embedder, "a server")
        embedder.encode([_first_input(embedder)])  # what is made at the first input only is made now
        reranker = self._reranker(embedder, start)
        gallery = self._gallery(embedder, start)
        batcher = Batcher(
            embedder,
            batch_size=self.batch_size,
            max_wait=self.max_wait,
            waiting=self.limits.waiting,
            observe=start.metrics,
        )
        fetcher = Fetcher(
            self.hosts,
            most_bytes=self.limits.picture,
            seconds=self.limits.fetch_seconds,
            fetched=start.metrics.fetched,
        )
        return Service(
            embedder,
            batcher,
            PictureReader(self.limits, fetcher),
            self.access,
            self.model_name,
            searcher=None if gallery is None else Searcher(embedder, LockedGallery(gallery)),
            kept=None if gallery is None else self.gallery.kept(gallery),
            force_dimensions=self.force_dimensions,
            limits=self.limits,
            metrics=start.metrics,
            reranker=reranker,
            reranker_name=self.reranker_name,
        )

    def _reranker(self, embedder: MLLMEmbedder, start: Start) -> Reranker | None:
        if self.reranker is None:
            return None
        from ...rerank.choice import reranker_for

        start.progress.doing = "loading the re-ranker"
        return reranker_for(self.reranker, embedder)

    def _gallery(self, embedder: MLLMEmbedder, start: Start) -> Gallery | None:
        if self.gallery.place is None:
            return None
        if self._opened is not None:
            return self._opened
        start.progress.doing = "loading the gallery"
        # the process that started this one has compared its checksums
        gallery = stored_gallery(self.gallery.place, verify=False)
        if gallery is not None:
            return gallery
        start.progress.doing = "embedding the gallery"
        return Searcher.from_folder(embedder, self.gallery.place, batch_size=self.batch_size).gallery


def _first_input(embedder: MLLMEmbedder) -> Item | str:
    """Return an input that a model takes: of one that was distilled for composed queries, such a query."""
    if embedder.settings.target_space:
        return Query(image=Image.new("RGB", (64, 64)), instruction="ready?")
    return "ready?"
