"""What stands for a stage's rows in a plan: of each role the longest inputs, with blank pictures as large as any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from mllm_embed.encode.avoiding import words_to_avoid
from mllm_embed.errors import ImageError
from mllm_embed.inputs.images import load_image
from mllm_embed.types import Document, Item, Query

from ..data import TrainingRow
from ..data.roles import PICTURE_ROLES
from ..recipe.row_stage import RowStage

# What stands for a data set that is not on disk: its words are about as long as a long caption of COCO, its pictures
# have COCO's usual size.
WORDS = "a man in a red jacket rides a brown horse along the beach while two dogs run behind him at sunset"
STANDARD_PICTURE = (640, 480)
SAMPLE = 32  # pictures of a data set whose size is looked at


def longest_inputs(
    stage: RowStage,
    roles: Sequence[str],
    rows: list[TrainingRow] | None,
    size: tuple[int, int] | None,
    jpeg_side: int | None,
    found: Sequence[str] = (),
) -> dict[str, list[Item]]:
    """Return the longest input of each kind (texts, pictures, both) that a role has, with blank pictures in place of
    its own.

    Args:
        stage: of a recipe.
        roles: those that its steps compute.
        rows: the stage's, where its data is on disk.
        size: the pictures' width and height; None for the largest found among the rows, else STANDARD_PICTURE.
        jpeg_side: as of `Settings`.
        found: roles among which hard negatives are found while it trains.

    Raises ImageError for pictures of which none can be read.
    """
    if rows is not None:
        return {role: _longest(_items(rows, role, stage.hard_negatives, found), size, jpeg_side) for role in roles}
    examples = {role: _example(role, Image.new("RGB", size or STANDARD_PICTURE)) for role in roles}
    # rows that are there stand on their sides of the search already
    put = stage.sides.of(stage.data[0]).put(TrainingRow("", "", examples))
    return {role: [item] for role, item in put.roles.items()}


def _items(rows: list[TrainingRow], role: str, most: int | None, found: Sequence[str]) -> list[Item]:
    items = [item for row in rows for item in inputs_of(row, role, most)]
    if role == "hard_negative":
        items += [row.roles[name] for row in rows for name in found if name in row.roles]
    return items or [Document(text=WORDS)]  # hard negatives that no row has


def inputs_of(row: TrainingRow, role: str, hard_negatives: int | None) -> tuple[Item, ...]:
    """Return the inputs of a row that play a role; of hard negatives so many at most."""
    return row.hard_negatives[:hard_negatives] if role == "hard_negative" else (row.roles[role],)


def _longest(items: list[Item], size: tuple[int, int] | None, jpeg_side: int | None) -> list[Item]:
    """Return the longest of each kind among items."""
    kinds: dict[str, list[Item]] = {}
    for item in items:
        kinds.setdefault(item.role, []).append(item)
    return [_longest_alike(alike, size, jpeg_side) for alike in kinds.values()]


def _longest_alike(items: list[Item], size: tuple[int, int] | None, jpeg_side: int | None) -> Item:
    """Return the item of the most words; where it has pictures, blank ones, as many and as large as those of any."""
    longest = max(items, key=word_length)
    if not longest.images:
        return longest
    most = max(items, key=lambda item: len(item.images))
    return with_pictures(longest, blanked(most, blank_for(items, size, jpeg_side)))


def blank_for(items: Sequence[Item], size: tuple[int, int] | None, jpeg_side: int | None) -> Image.Image:
    """Return a blank picture of a size, by default as large as any of some pictures from everywhere among items."""
    pictured = [item for item in items if item.images]
    some = pictured[:: math.ceil(len(pictured) / SAMPLE) or 1]
    return Image.new("RGB", size or max(_sizes(some, jpeg_side), key=_area, default=STANDARD_PICTURE))


def blanked(item: Item, blank: Image.Image) -> Item:
    """Return an item with a blank picture in the place of each of its own."""
    return replace(item, image=[blank] * len(item.images)) if item.images else item


def _sizes(items: Sequence[Item], jpeg_side: int | None) -> list[tuple[int, int]]:
    """Return the sizes of the pictures that can be read, as they are decoded: a run replaces the rows of others.

    Raises ImageError where none can be.
    """
    sizes, first = [], None
    for picture in (picture for item in items for picture in item.images):
        try:
            sizes.append(load_image(picture, jpeg_side=jpeg_side).size)
        except ImageError as error:
            first = first or error
    if first and not sizes:
        raise first
    return sizes


def longest_avoided(rows: list[TrainingRow] | None, role: str) -> Item | None:
    """Return the longest of what the queries of a role avoid; None where they avoid nothing."""
    items = [words for row in rows or () if role in row.roles and (words := words_to_avoid(row.roles[role]))]
    return max(items, key=word_length, default=None)


def shown_and_said(item: Item) -> tuple[int, int]:
    """Return how many pictures an item has, and how many characters."""
    return len(item.images), word_length(item)


def word_length(item: Item) -> int:
    """Return how many characters an item's words have."""
    return len(item.text or "") + len(item.words or "")


def picture_area(item: Item) -> int:
    """Return how many pixels the pictures of a sample have."""
    return sum(_area(picture.size) for picture in pictures_of(item))


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def pictures_of(item: Item) -> list[Image.Image]:
    """Return the pictures of a sample, which are blank ones."""
    return [picture for picture in item.images if isinstance(picture, Image.Image)]


def with_pictures(item: Item, other: Item) -> Item:
    """Return the words of the one item with the pictures of the other."""
    return replace(item, image=list(other.images)) if other.images else item


def _example(role: str, picture: Image.Image) -> Item:
    """Return what a role looks like, by its name."""
    if role in ("composed", "query"):
        return Query(picture, WORDS)
    if role == "composed_text":
        return Query(text=WORDS, instruction=WORDS)
    if role == "target_captioned":
        return Document(image=picture, text=WORDS)
    return Document(image=picture) if role in PICTURE_ROLES else Document(text=WORDS)
