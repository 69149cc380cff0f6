"""Examples to model input: each distinct input of a batch is encoded once, in chunks of inputs of one kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from mllm_embed.errors import MLLMEmbedError
from mllm_embed.types import Item

from ..recipe.config import Use
from .examples import Example, Lost, Ready

Chunk = dict[str, Tensor]


@dataclass
class ContrastiveBatch:
    """What a step computes with.

    Args:
        live: chunks that go through what is trained; `frozen` ones go through the model without its adapter. The
            vectors of the live ones come first.
        places: by use of a role, the number of the vector that plays it, [B] int64; of hard negatives [K].
        owners: [K] int64, which row brought each hard negative.
        inputs: [U] int64, for each vector a number that equal inputs share, whatever tower or process encodes them.
        keys: by role of a term with a bank, the rows' keys, [B] int64.
        cached: whether the live chunks are more than may be alive at once, and are computed twice.
        pictures: how many pictures the chunks hold.
        lost: rows that could not be read, whose place others took.
        ids: of the rows.
    """

    live: list[Chunk]
    frozen: list[Chunk]
    places: dict[Use, Tensor]
    owners: Tensor
    inputs: Tensor
    keys: dict[str, Tensor]
    cached: bool
    pictures: int
    lost: tuple[Lost, ...]
    ids: list[str]

    @property
    def tokens(self) -> int:
        """Tokens of all chunks, without padding."""
        return sum(int(chunk["attention_mask"].sum()) for chunk in (*self.live, *self.frozen))


@dataclass
class ContrastiveCollator:
    """Examples -> {"batch": Batch}.

    Inputs that are equal (a reference picture that four rows share, a caption that occurs twice) share their place
    where they go through the same tower, and their number in any case: that is how the loss knows them as equal. A
    chunk holds inputs of one kind (composed, image, text), sorted by length, so that little is padded, and at most
    `chunk_tokens` tokens with the padding, or a single input.
    """

    process: Callable[[list[Item]], Chunk]
    uses: list[Use]
    chunk_tokens: int

    def __call__(self, examples: list[Example | MLLMEmbedError]) -> dict[str, ContrastiveBatch | MLLMEmbedError]:
        for example in examples:
            if isinstance(example, MLLMEmbedError):
                return {"error": example}
        try:
            return {"batch": self._collate(examples)}
        except MLLMEmbedError as error:
            if get_worker_info() is None:
                raise
            return {"error": error}  # raised in the main process: torch would wrap it in the worker's traceback

    def _collate(self, examples: list[Example]) -> ContrastiveBatch:
        towers: dict[bool, dict[int, Ready]] = {False: {}, True: {}}
        for use in self.uses:
            for ready in (ready for example in examples for ready in example.roles[use.role]):
                towers[use.frozen].setdefault(ready.number, ready)
        cuts = {frozen: list(self._cut(list(tower.values()))) for frozen, tower in towers.items()}
        encoded = [(ready.number, frozen) for frozen, parts in cuts.items() for part in parts for ready in part]
        place = {entry: number for number, entry in enumerate(encoded)}
        live, frozen = (
            [self.process([ready.item for ready in part]) for part in cuts[which]] for which in (False, True)
        )
        owners = [row for row, example in enumerate(examples) for _ in example.roles.get("hard_negative", ())]
        return ContrastiveBatch(
            live=live,
            frozen=frozen,
            places={
                use: torch.tensor(
                    [place[ready.number, use.frozen] for example in examples for ready in example.roles[use.role]],
                    dtype=torch.long,
                )
                for use in self.uses
            },
            owners=torch.tensor(owners, dtype=torch.long),
            inputs=torch.tensor([number for number, _ in encoded], dtype=torch.long),
            keys={role: torch.tensor([example.keys[role] for example in examples]) for role in examples[0].keys},
            cached=sum(chunk["input_ids"].numel() for chunk in live) > self.chunk_tokens,
            lost=tuple(lost for example in examples for lost in example.lost),
            pictures=sum(len(ready.item.images) for tower in towers.values() for ready in tower.values()),
            ids=[example.id for example in examples],
        )

    def _cut(self, inputs: Sequence[Ready]) -> Iterator[list[Ready]]:
        kinds: dict[str, list[Ready]] = {}
        for ready in inputs:
            kinds.setdefault(ready.item.role, []).append(ready)
        for kind in kinds.values():
            part: list[Ready] = []
            for ready in sorted(kind, key=lambda ready: -ready.tokens):
                if part and part[0].tokens * (len(part) + 1) > self.chunk_tokens:
                    yield part
                    part = []
                part.append(ready)
            yield part
