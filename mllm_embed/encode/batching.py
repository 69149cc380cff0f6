"""Which inputs are computed together: neighbours in length, as many as a budget of tokens holds, so that hardly any of
it is padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

WORTH = 1024  # tokens that keep a processor busy: a batch of fewer is not cut to save padding
STEP_PIXELS = 48_000_000
"""Pixels of the pictures that are decoded for a batch, a single larger input excepted: seven bytes each are in memory
while they wait for the processor and go through it."""
_COPIES = 16  # cached tokens for each computed one: 4 KB a token and layer in an 8B model, so 0.5 GB for 8,192 tokens
_FULL = 0.95  # share of a batch's tokens that are no padding


def tokens_of(batch_size: int) -> int:
    """Return the budget of tokens that a batch size stands for: 256 an input."""
    return batch_size * 256


def suffixes_at_once(prefix: int, budget: int) -> int:
    """Return how many suffixes are computed at once on prefixes of so many tokens.

    While a layer is computed each has a copy of its prefix's keys and values.
    """
    return max(1, _COPIES * budget // max(prefix, 1))


def cut_by_budget(
    lengths: Sequence[int], budget: int, most: int | None = None, pixels: Sequence[int] | None = None
) -> list[slice]:
    """Return which neighbours make a batch, as slices that cover all inputs in their order.

    Args:
        lengths: tokens of each input, falling.
        budget: tokens of a batch, padding included; a longer input has one of its own.
        most: inputs of a batch, any number by default.
        pixels: of the pictures of each input, of which a batch has no more than STEP_PIXELS.
    """
    if not lengths:
        return []
    parts: list[slice] = []
    start, used, shown = 0, 0, 0
    for at, (length, more) in enumerate(zip(lengths, pixels or repeat(0, len(lengths)), strict=True)):
        rows, longest = at - start, lengths[start]
        over = (rows + 1) * longest > budget or rows == most or shown + more > STEP_PIXELS
        wasteful = rows * longest >= WORTH and used + length < _FULL * (rows + 1) * longest
        if rows and (over or wasteful):
            parts.append(slice(start, at))
            start, used, shown = at, 0, 0
        used, shown = used + length, shown + more
    return [*parts, slice(start, len(lengths))]
