"""The model speaking about answers: the words that it reads in them, and which of them it holds to be right."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ...encode.embedder import MLLMEmbedder
from ...errors import ConfigError, DataError, ImageError, ModelError
from ...generate.explain import Explainer, Reading
from ...generate.generator import Generator
from ...generate.rerank import ZeroShotJudge
from ...search.reranking import reranked
from ...search.searcher import Hit
from ...types import Item, Query
from ..batcher import Batcher
from ..refusals import Refusal

if TYPE_CHECKING:
    from ...rerank.reranker import Reranker

_Speaks = TypeVar("_Speaks", Explainer, Generator)
_HEADLESS = "this model cannot speak: it has no base with a language-model head"
_APART = "this model cannot judge answers while its adapter is a part of it: start the service with --rerank"

_AT_ONCE = 32  # documents


class Speaker:
    """An embedder's base, which is read once when it is first asked for.

    It speaks in the batcher's thread: while its adapter is off, no vector may be computed.
    """

    def __init__(self, embedder: MLLMEmbedder, batcher: Batcher, reranker: Reranker | None = None):
        """Speak for an embedder whose vectors a batcher computes; a `reranker` judges in its base's place."""
        self._embedder, self._batcher, self._reranker = embedder, batcher, reranker
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
        with _refused("a picture of an answer cannot be read any more: ask for fewer, or leave out rerank", "rerank"):
            return await self._batcher.alone(lambda: reranked(judge, query, hits, depth, weight))

    def reranker(self) -> Reranker:
        """Return the re-ranker. Raises Refusal 404 where there is none."""
        if self._reranker is None:
            raise Refusal(404, "this service has no re-ranker: start it as `mllm-embed serve --reranker R ...`")
        return self._reranker

    async def relevance(self, query: Item, documents: Sequence[Item]) -> list[float]:
        """Return the probability by the re-ranker that each document is what a query looks for.

        Between parts of them others' inputs have their turn. Raises Refusal where there is no re-ranker, and for what
        its prompt has no place for.
        """
        judge = self.reranker()
        found: list[float] = []
        for start in range(0, len(documents), _AT_ONCE):
            judged = partial(judge.relevance, query, documents[start : start + _AT_ONCE])
            with _refused("a picture of the documents cannot be read", "documents"):
                found += await self._batcher.alone(judged)
        return found

    async def _ready(self, kind: type[_Speaks]) -> _Speaks:
        """Return an explainer or a generator, made where it is first asked for."""
        async with self._loading:
            if kind not in self._loaded:
                try:
                    self._loaded[kind] = await self._batcher.alone(lambda: kind(self._embedder))
                except (ModelError, ConfigError) as error:
                    raise Refusal(422, "this model cannot speak: its base has no head in its files") from error
        return self._loaded[kind]


@contextmanager
def _refused(unread: str, field: str) -> Iterator[None]:
    """Raise what goes wrong in judging as a Refusal 422 of a field: with a sentence where a picture cannot be read."""
    try:
        yield
    except ImageError as error:
        raise Refusal(422, unread, field=field) from error
    except DataError as error:
        message = "the re-ranker cannot be asked so: leave out task, or shorten the words"
        raise Refusal(422, message, field=field) from error
    except ModelError as error:
        message = "this model cannot judge answers: it has no words for yes and no, or makes NaN of a pair"
        raise Refusal(422, message, field=field) from error
