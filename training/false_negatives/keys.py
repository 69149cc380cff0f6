"""Numbers that stand for inputs: by name, without opening a picture, or by what the model sees of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image

from mllm_embed.errors import kind_of
from mllm_embed.inputs.prompts import PromptSet
from mllm_embed.types import ImageLike, Item, item_key, picture_key

from ..data.numbers import number_of
from .twins import NO_TWINS, Twins

Asked: TypeAlias = Callable[[Item], Hashable]
"""Gives what items share which are asked alike, words and pictures apart."""


def asked_by(prompts: PromptSet) -> Asked:
    """Return how a prompt set asks items: by which of its prompts and with which task, in which a query and a document
    may be alike. What it returns raises DataError for a task that has no place there."""

    def asked(item: Item) -> Hashable:
        slot, task = prompts.asked(item)
        return (slot, task) if task else slot

    return asked


def as_told(item: Item) -> Hashable:
    """Return None: items are asked alike where nothing of them differs, whatever the prompts."""
    return None


@dataclass(frozen=True)
class ItemKeys:
    """The keys of a stage's inputs: int64, equal for inputs of the same prompt, words and pictures.

    Pictures are the same by their names, or as twins; those that are bytes by their bytes. None is opened.

    Args:
        asked: how an item is asked (`asked_by`).
        twins: pictures that are one under several names.
    """

    asked: Asked
    twins: Twins = NO_TWINS

    def __call__(self, item: Item) -> int:
        """Return the key of an item. Raises DataError for a task that has no place in the prompts."""
        return number_of(repr(item_key(item, tuple(map(self._picture, item.images)), self.asked(item))))

    def _picture(self, picture: ImageLike) -> Hashable:
        if isinstance(picture, (str, os.PathLike)):
            return self.twins.name_of(os.fspath(picture))
        return ("bytes", number_of(picture)) if isinstance(picture, bytes) else picture_key(picture)


def key_of(item: Item, asked: Asked) -> int:
    """Return the key of an item by `asked` and the names of its pictures alone."""
    return ItemKeys(asked)(item)


def content_of(item: Item, asked: Asked) -> int:
    """Return a number, int64, that inputs share in every process when the model cannot tell them apart.

    That is, when they are asked alike, with the same pixels and the same words. The pictures of `item` are decoded.
    """
    shown: list[str | bytes] = []
    for picture in item.images:
        if not isinstance(picture, Image.Image):
            raise TypeError(f"content_of needs decoded pictures, not {kind_of(picture)}")
        shown += [repr(picture.size), picture.tobytes()]
    return number_of(repr(item_key(item, (), asked(item))), *shown)
