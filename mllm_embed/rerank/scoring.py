"""Queries with their candidates carried through a re-ranker: a query's part is computed once, its candidates behind it.

A picture takes 64 to 2,900 tokens, so that with it a query's part is half of each prompt and more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from ..encode.batching import tokens_of
from ..errors import ModelError
from ..inputs.pairs.pair_processor import PairProcessor, Split
from .model import RerankModel
from .shared_lists import Listed, Pair, Place, Sharing, batches, shared_lists, size_of

_Judged = tuple[list[Place], Tensor]
"""Candidates, by the numbers of their list and in it, and the scores of each [N] float32."""


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
        return Sharing.of(self.model.model).split(self.pairs, self.lists[at])

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
        lists, parts = [self.lists[at] for at in numbers], [splits[at] for at in numbers]
        batch, placed = shared_lists(self.pairs, lists, parts, self.budget)
        return [(numbers[place], at) for place, at in placed], self.model.shared(
            batch.to(self.model.words.weight.device)
        )

    def _whole(self, rows: Sequence[Pair]) -> Iterator[_Judged]:
        """Yield candidates and their scores, each with its whole prompt."""
        for chosen in batches(rows, self.budget):
            batch = self.pairs.batch([(self.lists[pair.place[0]][0], pair.candidate) for pair in chosen])
            device = self.model.words.weight.device
            scores = self.model(**{name: tensor.to(device) for name, tensor in batch.items()})
            yield [pair.place for pair in chosen], scores

    def _wholes(self, at: int) -> Iterator[Pair]:
        """Yield the candidates of a list with their whole prompts."""
        query, candidates = self.lists[at]
        texts = [self.pairs.written.text(query, [candidate]) for candidate in candidates]
        ids = self.pairs.items.tokens(texts)
        for number, candidate in enumerate(candidates):
            tokens, pixels = size_of(self.pairs.items, query, candidate)
            yield Pair((at, number), candidate, texts[number], tokens + len(ids[number]), pixels)


def _finite(scores: Tensor) -> list[float]:
    """Return scores as numbers. Raises ModelError for NaN or infinite ones, by which nothing can be put in order."""
    if not torch.isfinite(scores).all():
        raise ModelError("the re-ranker makes NaN of a pair; mend the model, or compute in float32")
    return scores.tolist()
