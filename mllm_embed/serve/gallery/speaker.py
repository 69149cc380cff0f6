"""The model speaking about answers: the words that it reads in them, and which of them it holds to be right."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ...encode.embedder import MLLMEmbedder
from ...errors import ConfigError, DataError, ImageError, ModelError
from ...generate.explain import Explainer, Reading
from ...generate.generator import Generator
from ...generate.rerank import ZeroShotJudge
from ...search.reranking import in_order, shown
from ...search.searcher import Hit
from ...types import Query
from ..batcher import Batcher
from ..judging import Judging
from ..refusals import Refusal

if TYPE_CHECKING:
    from ...rerank.reranker import Reranker

_Speaks = TypeVar("_Speaks", Explainer, Generator)
_HEADLESS = "this model cannot speak: it has no base with a language-model head"
_APART = "this model cannot judge answers while its adapter is a part of it: start the service with --rerank"


class Speaker:
    """An embedder's base, which is read once when it is first asked for.

    It speaks in the batcher's thread: while its adapter is off, no vector may be computed.
    """

    def __init__(self, embedder: MLLMEmbedder, batcher: Batcher, judging: Judging, reranker: Reranker | None = None):
        """Speak for an embedder whose vectors a batcher computes; a `reranker` judges in its base's place."""
        self._embedder, self._batcher, self._judging, self._reranker = embedder, batcher, judging, reranker
        self._loading = asyncio.Lock()
        self._loaded: dict[type, Any] = {}
        has_head = embedder.settings.base is not None and not embedder.family.headless
        self.explains: bool = has_head
        # a merged adapter cannot be taken off
        apart = embedder.settings.adapter is None or embedder.model.adapted
        self.reranks: bool = reranker is not None or (has_head and apart)

    async def read(self, items: Sequence[Any]) -> list[Reading]:
        """Return the heaviest words of each item. Raises Refusal for a model without words."""
        if not self.explains:
            raise Refusal(422, _HEADLESS, field="explain")
        explainer = await self._ready(Explainer)
        return await self._batcher.alone(lambda: explainer.read(items))

    async def rerank(self, query: Query, hits: Sequence[Hit], depth: int, weight: float) -> list[Hit]:
        """Return the hits with the first `depth` as `reranked` orders them by `weight`. Raises Refusal for a model that
        cannot, and for what a re-ranker's prompt has no place for."""
        if not self.reranks:
            raise Refusal(422, _APART if self.explains else _HEADLESS, field="rerank")
        judge = self._reranker or ZeroShotJudge(await self._ready(Generator))
        scores = await self._judging.scores(judge, query, shown(hits, depth), _refusal)
        return in_order(hits, scores, depth, weight)

    async def _ready(self, kind: type[_Speaks]) -> _Speaks:
        """Return an explainer or a generator, made where it is first asked for."""
        async with self._loading:
            if kind not in self._loaded:
                try:
                    self._loaded[kind] = await self._batcher.alone(lambda: kind(self._embedder))
                except (ModelError, ConfigError) as error:
                    raise Refusal(422, "this model cannot speak: its base has no head in its files") from error
        return self._loaded[kind]


def _refusal(places: range, error: Exception) -> Refusal:
    """Return the refusal of answers that cannot be judged."""
    if isinstance(error, ImageError):
        message = "a picture of an answer cannot be read any more: ask for fewer, or leave out rerank"
    elif isinstance(error, DataError):
        message = "the re-ranker cannot be asked so: leave out task, shorten the words, or leave out rerank"
    elif isinstance(error, ModelError):
        message = "this model cannot judge answers: it has no words for yes and no, or makes NaN of a pair"
    else:
        return Refusal(500, "an answer takes more memory than this server has; leave out rerank", field="rerank")
    return Refusal(422, message, field="rerank")
