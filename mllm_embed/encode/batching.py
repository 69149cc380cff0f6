"""Which inputs are computed together: neighbours in length, as many as a budget of tokens holds, hardly any padding."""

from __future__ import annotations

from collections.abc import Sequence

WORTH = 1024  # tokens that keep a processor busy: a batch of fewer is not cut to save padding
_COPIES = 16  # kept tokens for each computed one: 4 KB a token and layer in an 8B model, so 0.5 GB for 8,192 tokens
_FULL = 0.95  # share of a batch's tokens that are no padding


def tokens_of(batch_size: int) -> int:
    """The budget of tokens that a batch size stands for: 256 an input."""
    return batch_size * 256


def endings_on(beginning: int, budget: int) -> int:
    """How many endings are computed at once on beginnings of so many tokens, whose keys and values each has a copy of
    while a layer is computed."""
    return max(1, _COPIES * budget // max(beginning, 1))


def cut_by_budget(lengths: Sequence[int], budget: int, most: int | None = None) -> list[slice]:
    """Neighbours that make a batch.

    Args:
        lengths: tokens of each input, falling.
        budget: tokens of a batch, padding included; a longer input has one of its own.
        most: inputs of a batch, any number by default.
    """
    parts: list[slice] = []
    start, used = 0, 0
    for at, length in enumerate(lengths):
        rows, longest = at - start, lengths[start]
        over = (rows + 1) * longest > budget or rows == most
        wasteful = rows * longest >= WORTH and used + length < _FULL * (rows + 1) * longest
        if rows and (over or wasteful):
            parts.append(slice(start, at))
            start, used = at, 0
        used += length
    return [*parts, slice(start, len(lengths))] if len(lengths) else []
