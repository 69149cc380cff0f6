"""Lists whose prompts are computed in two parts: the query's once, and its candidates' behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..encode.batching import cut_by_budget, suffixes_at_once
from ..encode.distinct import USUAL
from ..inputs.item_processor import ItemProcessor
from ..inputs.pairs.pair_processor import PairProcessor, Split
from ..model.embedding_model import EmbeddingModel
from ..model.prefix_cache import SharedBatch, SuffixBatch
from ..types import Item

Listed = tuple[Item, Sequence[Item]]
Place = tuple[int, int]
"""The number of a list, and that of a candidate in it."""


@dataclass(frozen=True)
class Pair:
    """A candidate of a query.

    Args:
        place: where it stands.
        candidate: what it is.
        text: the prompt, or its part of that.
        tokens: of that text, those of pictures about.
        pixels: of the pictures there.
    """

    place: Place
    candidate: Item
    text: str
    tokens: int
    pixels: int


@dataclass(frozen=True)
class Sharing:
    """Which lists a model can compute in two parts.

    Args:
        prefixes: whether any.
        pictures: whether those whose candidates have pictures.
    """

    prefixes: bool
    pictures: bool

    @classmethod
    def of(cls, model: EmbeddingModel) -> Sharing:
        """Return what a model can do."""
        return cls(model.shares_prefixes, model.family.pictures_behind_prefix)

    def split(self, pairs: PairProcessor, listed: Listed) -> Split | None:
        """Return the prompts of a list in two parts, None where they are computed whole."""
        query, candidates = listed
        pictured = any(one.images for one in candidates)
        if len(candidates) < 2 or not self.prefixes or (pictured and not self.pictures):
            return None
        return pairs.split(query, candidates)


def shared_lists(
    pairs: PairProcessor, lists: Sequence[Listed], splits: Sequence[Split], budget: int
) -> tuple[SharedBatch, list[Place]]:
    """Return lists as a batch of queries' parts with candidates' parts behind, and the place of each row of it.

    Args:
        pairs: the processor.
        lists: their queries all have pictures, or none has.
        splits: their prompts.
        budget: tokens of a part of the batch.

    Raises as `PairProcessor.batch`.
    """
    prefixes = pairs.prefixes([split.prefix for split in splits], [query for query, _ in lists])
    rows: list[Pair] = []
    for owner, (listed, split) in enumerate(zip(lists, splits, strict=True)):
        rows += _suffixes(pairs.items, owner, listed, split)
    most = suffixes_at_once(prefixes["input_ids"].shape[1], budget)
    parts: list[SuffixBatch] = []
    placed: list[Place] = []
    for chosen in batches(rows, budget, most):
        first = len(placed)
        placed += [pair.place for pair in chosen]
        texts, candidates = [pair.text for pair in chosen], [pair.candidate for pair in chosen]
        owners = [pair.place[0] for pair in chosen]
        parts.append(pairs.suffixes(texts, candidates, owners, range(first, len(placed))))
    batch = SharedBatch(prefixes, tuple(parts))
    pairs.check_lengths(batch)
    return batch, placed


def _suffixes(items: ItemProcessor, number: int, listed: Listed, split: Split) -> Iterator[Pair]:
    """Yield the candidates of a list with their parts of the prompt."""
    ids = items.tokens(list(split.suffixes), begun=True)
    for at, candidate in enumerate(listed[1]):
        tokens, pixels = size_of(items, candidate)
        yield Pair((number, at), candidate, split.suffixes[at], tokens + len(ids[at]), pixels)


def size_of(items: ItemProcessor, *shown: Item) -> tuple[int, int]:
    """Return about how many tokens the pictures of items take, and how many pixels they have."""
    sizes = [items.glance(image).size or USUAL for item in shown for image in item.images]
    return sum(items.picture_tokens(*size) for size in sizes), sum(map(math.prod, sizes))


def batches(rows: Sequence[Pair], budget: int, most: int | None = None) -> Iterator[list[Pair]]:
    """Yield pairs of like length together; all of a batch have pictures, or none has."""
    for pictured in (True, False):
        order = sorted((pair for pair in rows if bool(pair.pixels) == pictured), key=lambda pair: -pair.tokens)
        lengths, pixels = [pair.tokens for pair in order], [pair.pixels for pair in order]
        yield from (order[part] for part in cut_by_budget(lengths, budget, most, pixels))
