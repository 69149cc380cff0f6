"""What every route stands on: a model behind a queue, a gallery that may be, and what requests may cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..vectors.precision import truncate as cut
from .gallery.thumbnails import Thumbnails
from .limits import Limits
from .operations.metrics import Metrics
from .refusals import Refusal

if TYPE_CHECKING:
    from ..encode.embedder import MLLMEmbedder
    from ..rerank.reranker import Reranker
    from ..search.searcher import Searcher
    from ..types import Item
    from .access import Access
    from .batcher import Batcher, Embedded
    from .gallery.kept_pictures import KeptPictures
    from .pictures import PictureReader


@dataclass
class Service:
    """A running service.

    Args:
        embedder: the model. Nothing but the batcher's thread computes with it.
        batcher: where inputs of all requests wait, and are computed together.
        pictures: makes bytes of what a request calls a picture.
        access: who may ask.
        model_name: what the model is called here; never a path.
        searcher: the gallery, which is a `LockedGallery`; None where there is none.
        kept: where pictures of rows are kept that are added; None where rows may not be added or removed.
        force_dimensions: cut vectors to lengths that the model was not trained to be cut to.
        limits: what a request may cost.
        metrics: what is counted.
        reranker: judges answers in the place of the embedder's base; None where that does.
        reranker_name: what it is called here; never a path.
    """

    embedder: MLLMEmbedder
    batcher: Batcher
    pictures: PictureReader
    access: Access
    model_name: str
    searcher: Searcher | None = None
    kept: KeptPictures | None = None
    force_dimensions: bool = False
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    reranker: Reranker | None = None
    reranker_name: str = "reranker"

    def __post_init__(self) -> None:
        """Make what answers of a gallery need."""
        from .gallery.speaker import Speaker
        from .judging import Judging

        self.judging, self.thumbnails = Judging(self.batcher, self.limits.waiting, self.metrics), Thumbnails()
        self.speaker = Speaker(self.embedder, self.batcher, self.judging, self.reranker)

    def start(self) -> None:
        """Begin to compute, in a running event loop."""
        self.batcher.start()

    async def close(self) -> None:
        """Finish what was taken, and let go of what is open."""
        await self.batcher.close()
        await self.pictures.close()

    async def embedded(self, items: Sequence[Item], fields: Sequence[str], truncate: bool | None = None) -> Embedded:
        """Return what becomes of items under the current ticket: whole vectors, and the tokens of each.

        Args:
            items: N of them.
            fields: of the request that each came from.
            truncate: as of `Batcher.encode`.

        Raises:
            Refusal: one of them cannot be embedded, which is named, or as of `Batcher.encode`.
        """
        found = await self.batcher.encode(items, truncate)
        for at, reason in sorted(found.failures.items()):
            raise Refusal(422, f"{fields[at]}: {reason}", field=fields[at])
        return found

    async def vectors(self, items: Sequence[Item], fields: Sequence[str]) -> np.ndarray:
        """Return the vectors [N, D] float32 of items, of the embedder's own length; all else as of `embedded`."""
        found = await self.embedded(items, fields)
        return cut(found.vectors, self.embedder.dim, self.embedder.settings.renormalize)
