"""What inputs say after their last picture, as tokens, and batches of inputs that begin alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from ..inputs.prompts import MARKS
from ..model.prefix_cache import SharedBatch, SuffixBatch
from .batching import cut_by_budget, endings_on

if TYPE_CHECKING:
    from ..inputs.item_processor import ItemProcessor
    from ..types import Item

_PROBE = "a"  # stands for the user's words: where they are empty, line breaks around them become one token


@dataclass(frozen=True)
class Suffix:
    """`head`: the tokens before and between the placeholders of the pictures, none where there is no picture. `tokens`:
    those behind the last picture, or all, as the processor makes them."""

    head: tuple[int, ...]
    tokens: tuple[int, ...]


class Suffixes:
    """Tokenises tails by the tokenizer alone, for prompts where that is known to give what the processor gives.

    A processor may write words of its own behind a picture (an end mark, a line break); what these are is learned from
    one small blank picture a prompt.
    """

    def __init__(self, items: ItemProcessor):
        self._items = items
        tokenizer = items.processor.tokenizer
        marks = tokenizer.convert_tokens_to_ids(items.placeholders)
        self._marks = torch.tensor([mark for mark in marks if mark is not None])
        self._learned = cache(self._learn)

    def __call__(self, items: Sequence[Item]) -> list[Suffix | None]:
        """The tails of items; None where a prompt's tokens are not known beforehand."""
        rows = self._items.tokens([self._items.render(item) for item in items])
        return [self._tail(item, torch.tensor(ids)) for item, ids in zip(items, rows, strict=True)]

    def _tail(self, item: Item, ids: torch.Tensor) -> Suffix | None:
        learned = self._learned(item.role, len(item.images))
        if learned is None:
            return None
        lead, skipped, common = learned
        head, tail = self._split(ids)
        if tail[skipped : skipped + 1] != [common]:
            return None
        return Suffix(tuple(head), (*lead, *tail[skipped:]))

    def _split(self, ids: torch.Tensor) -> tuple[list[int], list[int]]:
        shown = torch.isin(ids, self._marks).nonzero()
        at = int(shown[-1]) + 1 if len(shown) else 0
        return ids[:at].tolist(), ids[at:].tolist()

    def _learn(self, role: str, images: int) -> tuple[list[int], int, int] | None:
        """What the processor puts in front, how many of the tokenizer's tokens that replaces, and the one after them,
        which the user's words must leave as it is."""
        text = self._items.filled(role, images, dict.fromkeys(MARKS.get(role, ()), _PROBE))
        true = self._items.tail(text, [Image.new("RGB", (64, 64))] * images)
        plain = self._split(torch.tensor(self._items.tokens([text])[0]))[1]
        shared = 0
        while shared < min(len(true), len(plain)) and true[-1 - shared] == plain[-1 - shared]:
            shared += 1
        if not shared:
            return None
        skipped = len(plain) - shared
        return true[: len(true) - shared], skipped, plain[skipped]


def in_common(tails: Sequence[Suffix]) -> int:
    """How many tokens tails begin with alike; each keeps at least one of its own."""
    shortest = min(len(tail.tokens) for tail in tails) - 1
    first = tails[0].tokens
    return next((at for at in range(shortest) if any(tail.tokens[at] != first[at] for tail in tails)), shortest)


def shared_batch(
    items: ItemProcessor, groups: Sequence[Sequence[Item]], tails: Sequence[Sequence[Suffix]], budget: int
) -> SharedBatch | None:
    """Groups of items that have all before their tails in common, as model input; a group's pictures are read once.

    None where the processor makes other tokens of a group's first item than its tail says. `budget` is that of
    `batching.cut_by_budget`, for the endings. Raises what `ItemProcessor` does.
    """
    lead = items([group[0] for group in groups])
    lead.pop("content_mask", None)
    width = lead["input_ids"].shape[1]
    real = lead["attention_mask"].sum(1).tolist()
    for ids, said in zip(lead["input_ids"], tails, strict=True):
        if tuple(ids[width - len(said[0].tokens) :].tolist()) != said[0].tokens:
            return None
    common = [in_common(said) for said in tails]
    lengths = [n - len(said[0].tokens) + alike for n, said, alike in zip(real, tails, common, strict=True)]
    by_token = {name for name, tensor in lead.items() if tensor.shape[:2] == (len(groups), width)}
    first = {name: tensor for name, tensor in lead.items() if name not in by_token}
    for name in by_token:
        first[name] = lead[name].new_zeros(len(groups), max(lengths), *lead[name].shape[2:])
        for row, length in enumerate(lengths):
            start = width - real[row]
            first[name][row, max(lengths) - length :] = lead[name][row, start : start + length]
    batch = SharedBatch(first, ())
    last = {name: lead[name][:, -1:] for name in by_token}
    owners = [number for number, group in enumerate(groups) for _ in group]
    own = [tail.tokens[common[number] :] for number, said in enumerate(tails) for tail in said]
    order = sorted(range(len(own)), key=lambda row: -len(own[row]))
    flat = [item for group in groups for item in group]
    parts = []
    most = endings_on(max(lengths), budget)
    for places in (order[part] for part in cut_by_budget([len(own[row]) for row in order], budget, most)):
        part = _padded(last, [own[row] for row in places], [owners[row] for row in places], places)
        if items.content:
            part = replace(part, content=_content(items, batch, part, [flat[row] for row in places]))
        parts.append(part)
    return replace(batch, suffixes=tuple(parts))


def _padded(
    last: dict[str, Tensor], tokens: Sequence[Sequence[int]], owners: list[int], rows: list[int]
) -> SuffixBatch:
    """Endings of some tokens; what else is given a token is as for the last one of their prompts, a word's as well."""
    width = max(map(len, tokens))
    inputs = {name: tensor[owners].repeat_interleave(width, 1) for name, tensor in last.items()}
    for row, ids in enumerate(tokens):
        inputs["input_ids"][row, : len(ids)] = torch.tensor(ids)
        inputs["attention_mask"][row, len(ids) :] = 0
    return SuffixBatch(inputs, torch.tensor(owners), torch.tensor(rows))


def _content(items: ItemProcessor, batch: SharedBatch, part: SuffixBatch, shown: Sequence[Item]) -> Tensor:
    ids, real = batch.whole("input_ids", part), batch.whole("attention_mask", part).bool()
    content = torch.zeros_like(ids)
    for row, item in enumerate(shown):
        content[row, real[row]] = items.content_of(item, ids[row, real[row]])
    return content
