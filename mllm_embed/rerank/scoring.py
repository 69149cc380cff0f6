"""Queries with their candidates carried through a re-ranker: a query's part is computed once, its candidates behind it.

A picture takes 64 to 2,900 tokens, so that with it a query's part is half of each prompt and more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from ..encode.batching import cut_by_budget, suffixes_at_once, tokens_of
from ..encode.distinct import USUAL
from ..errors import ModelError
from ..inputs.item_processor import ItemProcessor
from ..inputs.pairs.pair_processor import PairProcessor, Split
from ..model.prefix_cache import SharedBatch, SuffixBatch
from ..types import Item
from .model import RerankModel

Listed = tuple[Item, Sequence[Item]]


_Judged = tuple[list[tuple[int, int]], Tensor]
"""Candidates, by the numbers of their list and in it, and the scores of each [N] float32."""


@dataclass(frozen=True)
class _Pair:
    """A candidate of a query.

    Args:
        place: the number of its list, and its own in that.
        candidate: what it is.
        text: the prompt, or its part of that.
        tokens: of that text, those of pictures about.
        pixels: of the pictures there.
    """

    place: tuple[int, int]
    candidate: Item
    text: str
    tokens: int
    pixels: int


@torch.inference_mode()
def margins(
    model: RerankModel, pairs: PairProcessor, lists: Sequence[Listed], batch_size: int, share: bool, bar: tqdm
) -> list[list[float]]:
    """Return for each query how much likelier yes is than no for each of its candidates; the bar moves on by each.

    Args:
        model: of the re-ranker.
        pairs: its processor.
        lists: queries and the candidates of each.
        batch_size: as of `MLLMEmbedder.encode`.
        share: whether a query's part is computed once, where the model can do that.

    Raises what `PairProcessor.batch` does, ModelError for a model that makes NaN of a pair.
    """
    model.eval()
    pieces = list(_pieces(lists, batch_size))
    judging = _Judging(model, pairs, [piece.listed for piece in pieces], tokens_of(batch_size))
    found: list[list[float]] = [[0.0] * len(candidates) for _, candidates in lists]
    for group in _groups(judging.lists, batch_size):
        splits = {at: judging.split(at) if share else None for at in group}
        for placed, scores in judging.of(splits):
            for (at, number), score in zip(placed, _finite(scores), strict=True):
                found[pieces[at].of][pieces[at].start + number] = score
            bar.update(len(placed))
    return found


@dataclass(frozen=True)
class _Piece:
    """A query with some of its candidates: those of list `of`, from `start` on."""

    of: int
    start: int
    listed: Listed


def _pieces(lists: Sequence[Listed], batch_size: int) -> Iterator[_Piece]:
    """Yield lists in pieces of at most so many candidates, whose pictures are in memory together."""
    for at, (query, candidates) in enumerate(lists):
        for start in range(0, len(candidates), batch_size):
            yield _Piece(at, start, (query, candidates[start : start + batch_size]))


def _groups(lists: Sequence[Listed], batch_size: int) -> Iterator[list[int]]:
    """Yield the numbers of lists in parts of about so many candidates."""
    part: list[int] = []
    count = 0
    for at, (_, candidates) in enumerate(lists):
        if part and count + len(candidates) > batch_size:
            yield part
            part, count = [], 0
        part.append(at)
        count += len(candidates)
    yield from [part] if part else []


@dataclass(frozen=True)
class _Judging:
    """Lists that are judged, a batch at a time.

    Args:
        model, pairs, lists: as of `margins`.
        budget: tokens of a batch.
    """

    model: RerankModel
    pairs: PairProcessor
    lists: Sequence[Listed]
    budget: int

    def split(self, at: int) -> Split | None:
        """Return the prompts of a list in two parts, None where they are computed whole."""
        query, candidates = self.lists[at]
        model = self.model.model
        behind = model.family.pictures_behind_prefix or not any(one.images for one in candidates)
        if len(candidates) < 2 or not (behind and model.shares_prefixes):
            return None
        return self.pairs.split(query, candidates)

    def of(self, splits: Mapping[int, Split | None]) -> Iterator[_Judged]:
        """Yield the candidates of lists, and their scores, those of lists in two parts first."""
        shared = {at: split for at, split in splits.items() if split is not None}
        for pictured in (True, False):
            numbers = [at for at in shared if bool(self.lists[at][0].images) == pictured]
            if numbers:
                yield self._shared(numbers, shared)
        alone = [at for at in splits if at not in shared]
        yield from self._whole([pair for at in alone for pair in self._wholes(at)])

    def _shared(self, numbers: Sequence[int], splits: Mapping[int, Split]) -> _Judged:
        """Return the candidates of lists, and their scores, with each query's part computed once."""
        queries = [self.lists[at][0] for at in numbers]
        prefixes = self.pairs.prefixes([splits[at].prefix for at in numbers], queries)
        rows = [pair for at in numbers for pair in self._suffixes(at, splits[at])]
        most = suffixes_at_once(prefixes["input_ids"].shape[1], self.budget)
        owners = {at: place for place, at in enumerate(numbers)}
        parts: list[SuffixBatch] = []
        placed: list[tuple[int, int]] = []
        for chosen in _batches(rows, self.budget, most):
            first = len(placed)
            placed += [pair.place for pair in chosen]
            texts, candidates = [pair.text for pair in chosen], [pair.candidate for pair in chosen]
            owned = [owners[pair.place[0]] for pair in chosen]
            parts.append(self.pairs.suffixes(texts, candidates, owned, range(first, len(placed))))
        batch = SharedBatch(prefixes, tuple(parts))
        self.pairs.check_lengths(batch)
        return placed, self.model.shared(batch.to(self.model.words.weight.device))

    def _whole(self, rows: Sequence[_Pair]) -> Iterator[_Judged]:
        """Yield candidates and their scores, each with its whole prompt."""
        for chosen in _batches(rows, self.budget, None):
            batch = self.pairs.batch([(self.lists[pair.place[0]][0], pair.candidate) for pair in chosen])
            device = self.model.words.weight.device
            scores = self.model(**{name: tensor.to(device) for name, tensor in batch.items()})
            yield [pair.place for pair in chosen], scores

    def _suffixes(self, at: int, split: Split) -> Iterator[_Pair]:
        """Yield the candidates of a list with their parts of the prompt."""
        ids = self.pairs.items.tokens(list(split.suffixes), begun=True)
        for number, candidate in enumerate(self.lists[at][1]):
            tokens, pixels = _size(self.pairs.items, candidate)
            yield _Pair((at, number), candidate, split.suffixes[number], tokens + len(ids[number]), pixels)

    def _wholes(self, at: int) -> Iterator[_Pair]:
        """Yield the candidates of a list with their whole prompts."""
        query, candidates = self.lists[at]
        texts = [self.pairs.written.text(query, [candidate]) for candidate in candidates]
        ids = self.pairs.items.tokens(texts)
        for number, candidate in enumerate(candidates):
            tokens, pixels = _size(self.pairs.items, query, candidate)
            yield _Pair((at, number), candidate, texts[number], tokens + len(ids[number]), pixels)


def _size(items: ItemProcessor, *shown: Item) -> tuple[int, int]:
    """Return about how many tokens the pictures of items take, and how many pixels they have."""
    sizes = [items.glance(image).size or USUAL for item in shown for image in item.images]
    return sum(items.picture_tokens(*size) for size in sizes), sum(map(math.prod, sizes))


def _batches(rows: Sequence[_Pair], budget: int, most: int | None) -> Iterator[list[_Pair]]:
    """Yield pairs of like length together; all of a batch have pictures, or none has."""
    for pictured in (True, False):
        order = sorted((pair for pair in rows if bool(pair.pixels) == pictured), key=lambda pair: -pair.tokens)
        lengths, pixels = [pair.tokens for pair in order], [pair.pixels for pair in order]
        yield from (order[part] for part in cut_by_budget(lengths, budget, most, pixels))


def _finite(scores: Tensor) -> list[float]:
    """Return scores as numbers. Raises ModelError for NaN or infinite ones, by which nothing can be put in order."""
    if not torch.isfinite(scores).all():
        raise ModelError("the re-ranker makes NaN of a pair; mend the model, or compute in float32")
    return scores.tolist()
