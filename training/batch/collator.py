"""Model input of examples: each distinct input of a batch is encoded once, in chunks of inputs of one kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllm_embed.errors import MLLMEmbedError
from mllm_embed.types import Item

from ..false_negatives.guide import GuideVectors
from ..recipe.stage_keys.terms import RoleUse
from .collating import collated
from .examples import Example, PreparedInput, UnreadableRow
from .thoughts import TaughtThoughts

Chunk = dict[str, Tensor]  # what the model's forward takes
CHUNK_PIXELS = 192_000_000
"""Pixels of a chunk's pictures, seven bytes each while the processor makes them smaller."""


@dataclass
class ContrastiveBatch:
    """The rows of one process for one step: chunks to encode, and which vector plays which role of which row.

    B is the number of rows, K of their hard negatives, U of the vectors: first those of the live chunks, then those of
    the frozen ones, then the V that are made of two of these, of queries that avoid something.

    Args:
        live: chunks that go through what is trained.
        frozen: chunks that go through the model without its adapter.
        places: by use of a role, the number of the vector that plays it, [B] int64; of hard negatives [K].
        owners: [K] int64, which row brought each hard negative.
        inputs: [U] int64, for each vector a number that equal inputs share, live or frozen, in whatever process.
        keys: by role the keys of the rows' inputs, where what is right is known by them, [B] int64; of hard negatives
            [K]; as ASKED and RIGHT [P] what asks, and what is right for it, as the rows tell themselves.
        avoided: [V, 2] int64, of each vector that is made of two, the number of the query's and of what it avoids.
        cached: whether the live chunks are more than may be alive at once, and are computed twice.
        pictures: how many pictures the chunks hold.
        unreadable: rows that could not be read, whose place others took.
        ids: of the rows.
        guide: [V, Dg] float16, the guide's vectors of what plays a role, L2-normalised, NaN for what it has none of;
            None without a guide.
        guide_places: by use of a role as `places`, but rows of `guide`: a guide may tell inputs apart that the model
            cannot.
    """

    live: list[Chunk]
    frozen: list[Chunk]
    places: dict[RoleUse, Tensor]
    owners: Tensor
    inputs: Tensor
    keys: dict[str, Tensor]
    cached: bool
    pictures: int
    unreadable: tuple[UnreadableRow, ...]
    ids: list[str]
    guide: Tensor | None = None
    guide_places: dict[RoleUse, Tensor] = field(default_factory=dict)
    avoided: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.long))

    @property
    def tokens(self) -> int:
        """The tokens of all chunks, without padding."""
        return sum(int(chunk["attention_mask"].sum()) for chunk in (*self.live, *self.frozen))

    def with_tensors(self, change: Callable[[Any], Any]) -> ContrastiveBatch:
        """Return the batch with something in the place of each tensor, or a tensor in the place of each such thing."""

        def changed(named: dict[Any, Any]) -> dict[Any, Any]:
            return {name: change(value) for name, value in named.items()}

        return replace(
            self, live=list(map(changed, self.live)), frozen=list(map(changed, self.frozen)),
            places=changed(self.places), keys=changed(self.keys), owners=change(self.owners),
            inputs=change(self.inputs), guide=None if self.guide is None else change(self.guide),
            guide_places=changed(self.guide_places), avoided=change(self.avoided),
        )  # fmt: skip


@dataclass
class ContrastiveCollator:
    """A collator of examples: it gives {"batch": ContrastiveBatch}, or {"error": MLLMEmbedError} where there is none.

    Inputs that are equal (a reference picture that four rows share, a caption that occurs twice) share their vector
    where they go through the same model, and their number in any case: that is how the loss knows them as equal. A
    chunk holds inputs of one kind (composed, image, text), sorted by length, so that little is padded, and at most
    `chunk_tokens` tokens with the padding and CHUNK_PIXELS pixels, or a single input. An input that several rows share
    has the thought of the first of them.
    """

    process: Callable[[list[Item]], Chunk]
    uses: list[RoleUse]
    chunk_tokens: int
    guide: GuideVectors | None = None
    thoughts: TaughtThoughts | None = None

    def __call__(self, examples: list[Example | MLLMEmbedError]) -> dict[str, ContrastiveBatch | MLLMEmbedError]:
        """Return the batch of `examples`; outside a worker process an error of its own is raised."""
        return collated(examples, self._collate)

    def _collate(self, examples: list[Example]) -> ContrastiveBatch:
        if self.thoughts:
            examples = self.thoughts.chosen(examples)
        live, frozen = self._groups(examples, frozen=False), self._groups(examples, frozen=True)
        vectors = _vector_numbers(live, frozen)
        avoided = self._number_avoiding(examples, vectors)
        live_chunks, frozen_chunks = self._processed(live), self._processed(frozen)
        guide, guide_places = self._guided(examples)
        return ContrastiveBatch(
            live=live_chunks,
            frozen=frozen_chunks,
            places={use: _places(use, examples, vectors) for use in self.uses},
            owners=_owners(examples),
            inputs=torch.tensor([number for number, _ in vectors], dtype=torch.long),
            keys=_keys(examples),
            cached=sum(chunk["input_ids"].numel() for chunk in live_chunks) > self.chunk_tokens,
            unreadable=tuple(chain.from_iterable(example.unreadable for example in examples)),
            pictures=sum(len(prepared.item.images) for prepared in chain(*live, *frozen)),
            ids=[example.id for example in examples],
            guide=guide,
            guide_places=guide_places,
            avoided=avoided,
        )

    def _number_avoiding(self, examples: list[Example], vectors: dict[tuple[int, bool], int]) -> Tensor:
        """Number the vectors that are made of two others behind these, and return of which, [V, 2] int64."""
        made: list[list[int]] = []
        for use in self.uses:
            for prepared in _played(use, examples):
                if prepared.apart and (prepared.number, use.frozen) not in vectors:
                    made.append([vectors[part.number, use.frozen] for part in prepared.apart])
                    vectors[prepared.number, use.frozen] = len(vectors)
        return torch.tensor(made, dtype=torch.long).reshape(-1, 2)

    def _guided(self, examples: list[Example]) -> tuple[Tensor | None, dict[RoleUse, Tensor]]:
        """Return the guide's vectors of all that plays a role, each once, and by use where they lie among them."""
        if self.guide is None:
            return None, {}
        played = [_guide_keys(use, examples) for use in self.uses]
        keys, places = np.unique(np.concatenate(played), return_inverse=True)
        parts = torch.from_numpy(places).split(list(map(len, played)))
        return torch.from_numpy(self.guide.take(keys)), dict(zip(self.uses, parts, strict=True))

    def _groups(self, examples: list[Example], frozen: bool) -> list[list[PreparedInput]]:
        """Return the distinct inputs that are encoded live, or without the adapter, as chunks will hold them."""
        distinct: dict[int, PreparedInput] = {}
        for use in self.uses:
            if use.frozen == frozen:
                for prepared in _played(use, examples):
                    distinct.update({part.number: part for part in prepared.encoded if part.number not in distinct})
        return list(self._cut(distinct.values()))

    def _cut(self, inputs: Iterable[PreparedInput]) -> Iterator[list[PreparedInput]]:
        kinds: dict[str, list[PreparedInput]] = {}
        for prepared in inputs:
            kinds.setdefault(prepared.item.role, []).append(prepared)
        for kind in kinds.values():
            group: list[PreparedInput] = []
            pixels = 0
            for prepared in sorted(kind, key=lambda prepared: -prepared.tokens):
                pixels += prepared.pixels
                # the first is the longest, and all are padded to it
                if group and (group[0].tokens * (len(group) + 1) > self.chunk_tokens or pixels > CHUNK_PIXELS):
                    yield group
                    group, pixels = [], prepared.pixels
                group.append(prepared)
            yield group

    def _processed(self, groups: Sequence[Sequence[PreparedInput]]) -> list[Chunk]:
        return list(map(self.chunk, groups))

    def chunk(self, group: Sequence[PreparedInput]) -> Chunk:
        """Return inputs of one kind as model input."""
        thoughts = [prepared.thought for prepared in group if prepared.thought is not None]
        if self.thoughts is None or not thoughts:
            return self.process(_items(group))
        return self.thoughts.writer.taught(_items(group), thoughts, [prepared.learned for prepared in group])


def _vector_numbers(
    live: Sequence[Sequence[PreparedInput]], frozen: Sequence[Sequence[PreparedInput]]
) -> dict[tuple[int, bool], int]:
    """Return the number of each vector, by its input's number and whether it is frozen, in the order of the chunks."""
    numbers: dict[tuple[int, bool], int] = {}
    for prepared in chain(*live):
        numbers[prepared.number, False] = len(numbers)
    for prepared in chain(*frozen):
        numbers[prepared.number, True] = len(numbers)
    return numbers


def _items(group: Sequence[PreparedInput]) -> list[Item]:
    return [prepared.item for prepared in group]


def _played(use: RoleUse, examples: Sequence[Example]) -> Iterator[PreparedInput]:
    for example in examples:
        yield from example.roles[use.role]


def _guide_keys(use: RoleUse, examples: Sequence[Example]) -> np.ndarray:
    return np.array([prepared.guide_key for prepared in _played(use, examples)], np.int64)


def _places(use: RoleUse, examples: Sequence[Example], vectors: dict[tuple[int, bool], int]) -> Tensor:
    places = [vectors[prepared.number, use.frozen] for prepared in _played(use, examples)]
    return torch.tensor(places, dtype=torch.long)


def _owners(examples: Sequence[Example]) -> Tensor:
    """Return the row [K] int64 that brought each hard negative, in the order of `_played`."""
    counts = [len(example.roles.get("hard_negative", ())) for example in examples]
    return torch.repeat_interleave(torch.arange(len(examples)), torch.tensor(counts, dtype=torch.long))


def _keys(examples: Sequence[Example]) -> dict[str, Tensor]:
    keys = {}
    for role in examples[0].keys:
        listed = chain.from_iterable(example.keys[role] for example in examples)
        keys[role] = torch.tensor(list(listed), dtype=torch.long)
    return keys
