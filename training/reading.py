"""Inputs read before they are encoded, so that one that cannot be read costs the others nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mllm_embed.errors import DataError, ImageError
from mllm_embed.types import Item

BLOCK = 256  # inputs whose pictures lie in memory at once


def read_items(
    items: Sequence[Item], prepare: Callable[[Item], tuple[Item, int]]
) -> tuple[dict[int, Item], dict[int, str]]:
    """By their places: the items with their pictures decoded, and why the others cannot be embedded.

    `prepare` is that of the model's processor (`ItemProcessor.prepared`).
    """
    read, reasons = {}, {}
    for place, item in enumerate(items):
        try:
            read[place], _ = prepare(item)
        except (DataError, ImageError) as error:
            reasons[place] = str(error)
    return read, reasons
