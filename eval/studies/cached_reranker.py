"""A re-ranker whose scores are kept on disk: nothing is judged twice, and a run that was stopped goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from mllm_embed.generate.answer_cache import AnswerCache, CachedAnswer, cache_key
from mllm_embed.inputs.images import ContentKeys
from mllm_embed.rerank.reranker import Reranker
from mllm_embed.types import Item, item_key

CACHE = "judged.jsonl"

Listed = tuple[Item, Sequence[Item]]


class CachedReranker:
    """A re-ranker with a memory on disk.

    Attributes:
        seconds: what the scores given so far took when they were made, those from the memory included.
        spent: what asking took in this process.
    """

    def __init__(self, reranker: Reranker, folder: Path, batch_size: int = 32):
        """Keep the scores in FOLDER/judged.jsonl. So many pairs are judged, and kept, at a time."""
        self.seconds, self.spent = 0.0, 0.0
        self._reranker, self._batch_size = reranker, batch_size
        self._cache = AnswerCache(folder / CACHE)
        # what changes the model, its prompt, or what it is shown, changes its scores
        self._identity = reranker.provenance
        self._contents = ContentKeys()

    def scores_of(self, lists: Sequence[Listed]) -> list[list[float]]:
        """Return the scores of queries' candidates, as `Reranker.scores_of`, out of the memory or judged now."""
        before = time.perf_counter()
        keys = [self._keys(listed) for listed in lists]
        new = [at for at, of_list in enumerate(keys) if not all(map(self._cache.__contains__, of_list))]
        for part in tqdm(self._parts(lists, new), desc="judging", unit="batch", disable=None if new else True):
            self._judge([lists[at] for at in part], [keys[at] for at in part])
        self.seconds += sum(map(self._cache.seconds, chain.from_iterable(keys)))
        self.spent += time.perf_counter() - before
        return [list(map(self._score, of_list)) for of_list in keys]

    def _score(self, key: str) -> float:
        return float(self._cache[key].text)

    def _parts(self, lists: Sequence[Listed], new: Sequence[int]) -> list[list[int]]:
        """Return the numbers of lists that are judged at once, about a batch of candidates a part."""
        parts: list[list[int]] = []
        count = self._batch_size
        for at in new:
            if count >= self._batch_size:
                parts.append([])
                count = 0
            parts[-1].append(at)
            count += len(lists[at][1])
        return parts

    def _judge(self, lists: Sequence[Listed], keys: Sequence[Sequence[str]]) -> None:
        """Judge what is new of some lists, and keep it."""
        fresh = [self._new(candidates, of_list) for (_, candidates), of_list in zip(lists, keys, strict=True)]
        asked = [(query, list(new.values())) for (query, _), new in zip(lists, fresh, strict=True)]
        started = time.perf_counter()
        found = self._reranker.scores_of(asked, batch_size=self._batch_size, show_progress=False)
        seconds = (time.perf_counter() - started) / max(sum(map(len, found)), 1)
        for (query, _), new, scores in zip(lists, fresh, found, strict=True):
            for key, score in zip(new, scores, strict=True):
                self._cache.add(key, CachedAnswer(repr(score)), asked=query.words or "", seconds=f"{seconds:.6f}")

    def _new(self, candidates: Sequence[Item], keys: Sequence[str]) -> dict[str, Item]:
        """Return the candidates that were not judged yet, by their keys."""
        return {key: one for key, one in zip(keys, candidates, strict=True) if key not in self._cache}

    def _keys(self, listed: Listed) -> list[str]:
        query, candidates = listed
        return [self._key(query, candidate) for candidate in candidates]

    def _key(self, query: Item, candidate: Item) -> str:
        said = [repr(item_key(one, tuple(map(self._contents.of, one.images)))) for one in (query, candidate)]
        return cache_key(self._identity, "\n".join(said))
