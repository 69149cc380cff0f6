"""Groups of inputs as model input in which the prefix that a group shares, its pictures foremost, stands once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..inputs.item_processor import ItemProcessor
from ..model.prefix_cache import SharedBatch, SuffixBatch
from ..types import Item
from .batching import cut_by_budget, suffixes_at_once
from .suffixes import Input, Suffix, shared_length, suffixes_of


class _Row(NamedTuple):
    """An input: its number, its group's, and the tokens that it has to itself."""

    number: int
    group: int
    tokens: tuple[int, ...]
    item: Item


def shared_batch(items: ItemProcessor, groups: Sequence[Sequence[Input]], budget: int) -> SharedBatch | None:
    """Return groups of inputs, which have all before their suffixes in common, as a batch of prefixes and suffixes.

    None where the processor makes other tokens of a group's first input than its suffix says. `budget` is that of
    `batching.cut_by_budget`, for the suffixes. Raises what `ItemProcessor` does.
    """
    first = [group[0] for group in groups]
    whole = items([one.item for one in first], [one.prompt for one in first], padding_side="left")
    whole.pop("content_mask", None)
    # what was learned of a prompt from a blank picture is checked on each group's own pictures
    if not _end_with(whole["input_ids"], suffixes_of(first)):
        return None
    rows = _rows(groups)
    batch = SharedBatch(_prefixes(whole, _own_of_first(rows)), ())
    last = {name: whole[name][:, -1:] for name in _by_token(whole)}
    parts = _cut(rows, batch.prefixes["input_ids"].shape[1], budget)
    suffixes = [_padded(last, part) for part in parts]
    if not items.pooled.all:
        suffixes = list(map(partial(_with_content, items, batch), suffixes, parts))
    return replace(batch, suffixes=tuple(suffixes))


def _rows(groups: Sequence[Sequence[Input]]) -> list[_Row]:
    rows: list[_Row] = []
    for number, group in enumerate(groups):
        suffixes = suffixes_of(group)
        shared = shared_length(suffixes)
        for one, suffix in zip(group, suffixes, strict=True):
            rows.append(_Row(len(rows), number, suffix.tokens[shared:], one.item))
    return rows


def _cut(rows: Sequence[_Row], prefix: int, budget: int) -> list[list[_Row]]:
    """Return rows of like length together, behind prefixes of so many tokens."""
    order = sorted(rows, key=lambda row: -len(row.tokens))
    lengths = [len(row.tokens) for row in order]
    return [order[part] for part in cut_by_budget(lengths, budget, suffixes_at_once(prefix, budget))]


def _own_of_first(rows: Sequence[_Row]) -> list[int]:
    """Return how many tokens the first input of each group has to itself."""
    own: dict[int, int] = {}
    for row in rows:
        own.setdefault(row.group, len(row.tokens))
    return list(own.values())


def _end_with(ids: Tensor, suffixes: Sequence[Suffix]) -> bool:
    """Whether rows of tokens [G, L], padded on the left, end with their suffixes."""
    width = ids.shape[1]
    for row, suffix in zip(ids.tolist(), suffixes, strict=True):
        if tuple(row[width - len(suffix.tokens) :]) != suffix.tokens:
            return False
    return True


def _by_token(batch: dict[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold something of each token, [B, L, ...]."""
    return [name for name, tensor in batch.items() if tensor.shape[:2] == batch["input_ids"].shape]


def _prefixes(whole: dict[str, Tensor], dropped: Sequence[int]) -> dict[str, Tensor]:
    """Return a batch that is padded on the left without so many last tokens of each row, padded anew."""
    count, width = whole["input_ids"].shape
    lengths = (whole["attention_mask"].sum(1) - torch.tensor(dropped)).tolist()
    longest = max(lengths)
    prefixes = dict(whole)
    for name in _by_token(whole):
        tensor = whole[name]
        prefixes[name] = tensor.new_zeros(count, longest, *tensor.shape[2:])
        for row, (length, less) in enumerate(zip(lengths, dropped, strict=True)):
            end = width - less
            prefixes[name][row, longest - length :] = tensor[row, end - length : end]
    return prefixes


def _padded(last: dict[str, Tensor], rows: Sequence[_Row]) -> SuffixBatch:
    """Return suffixes, padded on the right.

    What else is given a token is as for the `last` one of their group's first input, which is a word's as well.
    """
    width, groups = max(len(row.tokens) for row in rows), [row.group for row in rows]
    inputs = {name: tensor[groups].repeat_interleave(width, 1) for name, tensor in last.items()}
    for place, row in enumerate(rows):
        inputs["input_ids"][place, : len(row.tokens)] = torch.tensor(row.tokens)
        inputs["attention_mask"][place, len(row.tokens) :] = 0
    return SuffixBatch(inputs, torch.tensor(groups), torch.tensor([row.number for row in rows]))


def _with_content(items: ItemProcessor, batch: SharedBatch, part: SuffixBatch, rows: Sequence[_Row]) -> SuffixBatch:
    """Return suffixes with the tokens that are pooled, [N, P + S] int64 over their whole inputs."""
    ids, real = batch.whole("input_ids", part), batch.whole("attention_mask", part).bool()
    content = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        content[place, real[place]] = items.pooled.of(row.item, ids[place, real[place]])
    return replace(part, content=content)
