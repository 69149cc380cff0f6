"""Rows as a re-ranker reads them: a prompt for each query with a candidate, or for a query with all of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from mllm_embed.encode.batching import cut_by_budget
from mllm_embed.errors import MLLMEmbedError
from mllm_embed.inputs.pairs.pair_processor import PairProcessor
from mllm_embed.rerank.shared_lists import Place, Sharing
from mllm_embed.types import Item, Query

from ..batch.collating import collated
from ..batch.collator import Chunk
from ..batch.examples import Example, PreparedInput, UnreadableRow
from ..recipe.reranker.stage import RerankStage
from ..recipe.reranker.term import PAIRED
from .chunks import Chunked, ListOfRow, PairChunk, changed, forwards, in_two_parts, with_tensors

NumberedPair = tuple[Place, tuple[Item, Item]]


@dataclass
class RerankBatch:
    """The rows of one process for one step; B is their number, n the most candidates of one, P that of all.

    Args:
        pairs: chunks of queries with one candidate each, where it can be with each query's part computed once.
        lists: chunks of queries with all of theirs.
        rows: [P] int64, the row of each pair, in the order of the chunks.
        places: [P] int64, where among its row's candidates each stands: 0 is right.
        counts: [B] int64, the candidates of each row.
        orders: [B, n] int64, which candidate stands at each place of a row's list; -1 behind the last.
        cached: whether the chunks are more than may be alive at once, and are computed twice.
        pictures: of queries and candidates, each counted once a row.
        unreadable: rows that could not be read, whose place others took.
        ids: of the rows.
    """

    pairs: list[PairChunk]
    lists: list[Chunk]
    rows: Tensor
    places: Tensor
    counts: Tensor
    orders: Tensor
    cached: bool
    pictures: int
    unreadable: tuple[UnreadableRow, ...]
    ids: list[str]

    @property
    def tokens(self) -> int:
        """The tokens of all chunks, without padding: those that are computed."""
        return sum(int(one["attention_mask"].sum()) for one in _forwards(self.pairs, self.lists))

    def with_tensors(self, change: Callable[[Any], Any]) -> RerankBatch:
        """Return the batch with something in the place of each tensor, or a tensor in the place of each such thing."""
        return replace(
            self, pairs=[with_tensors(chunk, change) for chunk in self.pairs],
            lists=[changed(chunk, change) for chunk in self.lists],
            rows=change(self.rows), places=change(self.places), counts=change(self.counts), orders=change(self.orders),
        )  # fmt: skip


@dataclass(frozen=True)
class _Judged:
    """A row with what is judged of it, the right candidate first."""

    example: Example
    query: PreparedInput
    candidates: list[PreparedInput]

    @property
    def tokens(self) -> int:
        """About how many tokens a prompt of all candidates takes."""
        return self.query.tokens + sum(one.tokens for one in self.candidates)

    @property
    def pixels(self) -> int:
        """How many pixels all its pictures have."""
        return self.query.pixels + sum(one.pixels for one in self.candidates)

    @property
    def pictures(self) -> int:
        """How many pictures it shows."""
        return sum(len(one.item.images) for one in (self.query, *self.candidates))

    def listed(self, number: int) -> ListOfRow:
        """Return its query with all candidates, as row `number` of a batch."""
        sizes = [(self.query.tokens + one.tokens, self.query.pixels + one.pixels) for one in self.candidates]
        return ListOfRow(number, (self.asked, [one.item for one in self.candidates]), sizes)

    @property
    def asked(self) -> Item:
        """The query with what it avoids, which an embedder reads apart."""
        item = self.query.item
        if self.query.apart is None or not isinstance(item, Query):
            return item
        return replace(item, avoid=self.query.apart[1].item.words)


@dataclass
class RerankCollator:
    """A collator of examples: it gives {"batch": RerankBatch}, or {"error": MLLMEmbedError} where there is none.

    A candidate that shows what the positive shows is none. Of more negatives than there is room for, each row draws
    some, others in other epochs; so it draws the order of its list. Chunks hold about `chunk_tokens` tokens at most;
    `share` says which of them are computed in two parts.
    """

    process: PairProcessor
    stage: RerankStage
    share: Sharing
    chunk_tokens: int
    seed: int
    epoch: int = 0

    def __call__(self, examples: list[Example | MLLMEmbedError]) -> dict[str, RerankBatch | MLLMEmbedError]:
        """Return the batch of `examples`; outside a worker process an error of its own is raised."""
        return collated(examples, self._collate)

    def _collate(self, examples: list[Example]) -> RerankBatch:
        judged = sorted(map(self._judged, examples), key=lambda row: -row.tokens)  # so that little is padded
        asked = self.stage.weights.keys()
        chunked = self._pairs(judged) if asked & PAIRED else []
        pairs = [chunk for chunk, _ in chunked]
        lists = list(map(self.process.list_batch, self._lists(judged) if "listwise" in asked else []))
        numbers = list(chain.from_iterable(placed for _, placed in chunked))
        rows, places = torch.tensor(numbers, dtype=torch.long).reshape(-1, 2).unbind(1)
        return RerankBatch(
            pairs=pairs, lists=lists, rows=rows, places=places,
            counts=torch.tensor([len(row.candidates) for row in judged]),
            orders=self._orders(judged),
            cached=sum(one["input_ids"].numel() for one in _forwards(pairs, lists)) > self.chunk_tokens,
            pictures=sum(row.pictures for row in judged),
            unreadable=tuple(chain.from_iterable(example.unreadable for example in examples)),
            ids=[row.example.id for row in judged],
        )  # fmt: skip

    def _judged(self, example: Example) -> _Judged:
        stage = self.stage
        [query], [positive] = example.roles[stage.query], example.roles[stage.positive]
        wrong = {one.number: one for role in stage.negatives for one in example.roles[role]}
        wrong.pop(positive.number, None)
        negatives = list(wrong.values())
        if len(negatives) >= stage.candidates:
            negatives = self._chance(example, "candidates").sample(negatives, stage.candidates - 1)
        return _Judged(example, query, [positive, *negatives])

    def _chance(self, example: Example, what: str) -> random.Random:
        """Return chance that comes at (seed, epoch, row), so that a run that goes on draws what it would have drawn."""
        return random.Random(f"{self.seed} {self.epoch} {example.id} {what}")

    def _pairs(self, judged: Sequence[_Judged]) -> list[Chunked]:
        """Return the pairs of all rows in chunks: what can be computed in two parts, then the rest."""
        rows = [row.listed(number) for number, row in enumerate(judged)]
        shared, rest = in_two_parts(self.process, rows, self.share, self.chunk_tokens)
        return [*shared, *map(self._whole, self._wholes(rest))]

    def _whole(self, pairs: Sequence[NumberedPair]) -> Chunked:
        return self.process.batch([pair for _, pair in pairs]), [place for place, _ in pairs]

    def _wholes(self, rows: Sequence[ListOfRow]) -> Iterator[list[NumberedPair]]:
        """Yield the pairs of rows in chunks of like length.

        All of a chunk have pictures, or none has: processors take no batch of some with and some without.
        """
        pairs = [
            (size, ((row.number, at), (row.listed[0], one)))
            for row in rows
            for at, (one, size) in enumerate(zip(row.listed[1], row.sizes, strict=True))
        ]
        for shown in (True, False):
            order = sorted((pair for pair in pairs if _shown(pair[1]) == shown), key=lambda pair: -pair[0][0])
            lengths, pixels = [size[0] for size, _ in order], [size[1] for size, _ in order]
            for part in cut_by_budget(lengths, self.chunk_tokens, pixels=pixels):
                yield [pair for _, pair in order[part]]

    def _lists(self, judged: Sequence[_Judged]) -> list[list[tuple[Item, list[Item]]]]:
        """Return the rows' lists in the order of the rows, in chunks."""
        lists = list(map(_listed, judged, self._orders(judged).tolist()))
        lengths, pixels = [row.tokens for row in judged], [row.pixels for row in judged]
        return [lists[part] for part in cut_by_budget(lengths, self.chunk_tokens, pixels=pixels)]

    def _orders(self, judged: Sequence[_Judged]) -> Tensor:
        most = max(len(row.candidates) for row in judged)
        orders = torch.full((len(judged), most), -1)
        for number, row in enumerate(judged):
            count = len(row.candidates)
            orders[number, :count] = torch.tensor(self._chance(row.example, "order").sample(range(count), count))
        return orders


def _listed(row: _Judged, order: list[int]) -> tuple[Item, list[Item]]:
    """Return a row's query with its candidates in an order, of which places below 0 are none."""
    return row.asked, [row.candidates[place].item for place in order if place >= 0]


def _shown(pair: NumberedPair) -> bool:
    """Return whether a pair has pictures."""
    query, candidate = pair[1]
    return bool(query.images or candidate.images)


def _forwards(pairs: Sequence[PairChunk], lists: Sequence[Chunk]) -> Iterator[Chunk]:
    """Yield the model input of each forward pass."""
    yield from chain.from_iterable(map(forwards, [*pairs, *lists]))
