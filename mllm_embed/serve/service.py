"""What every route stands on: a model behind a queue, a gallery that may be, and what requests may cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .limits import Limits

if TYPE_CHECKING:
    from ..encode.embedder import MLLMEmbedder
    from ..search.searcher import Searcher
    from .access import Access
    from .batcher import Batcher
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
        searcher: the gallery, with an encoder that goes through the batcher; None where there is none.
        writable: whether rows may be added and removed.
        force_dimensions: cut vectors to lengths that the model was not trained to be cut to.
        limits: what a request may cost.
    """

    embedder: MLLMEmbedder
    batcher: Batcher
    pictures: PictureReader
    access: Access
    model_name: str
    searcher: Searcher | None = None
    writable: bool = False
    force_dimensions: bool = False
    limits: Limits = field(default_factory=Limits)
