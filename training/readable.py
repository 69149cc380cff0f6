"""Encoding many inputs of which a few pictures may be unreadable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from mllm_embed.errors import ImageError
from mllm_embed.images import load_image
from mllm_embed.types import Item

Vectors = TypeVar("Vectors")


def encode_readable(
    items: Sequence[Item], encode: Callable[[Sequence[Item]], Vectors]
) -> tuple[list[int], Vectors | None, dict[int, str]]:
    """The places of the items that can be read, their vectors as `encode` gives them (None for no item), and why the
    others cannot be. Pictures are only looked at apart where one of them is unreadable."""
    places, reasons = list(range(len(items))), {}
    try:
        return places, encode(items) if items else None, reasons
    except ImageError:
        reasons = {place: reason for place in places if (reason := _unreadable(items[place]))}
        if not reasons:
            raise
    places = [place for place in places if place not in reasons]
    return places, encode([items[place] for place in places]) if places else None, reasons


def _unreadable(item: Item) -> str | None:
    try:
        for image in item.images:
            load_image(image)
    except ImageError as error:
        return str(error)
    return None
