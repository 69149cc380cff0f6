"""Near-twins: pictures that show the same and are other files, saved again as JPEG, say.

No vector can tell them from pictures that differ by an edit: an untrained model finds all pictures alike. Here small
thumbnails find what may be the same, and the pixels decide, a block of `_CELL` pixels at a time, so that a change of a
small part is seen as well as one of the whole. Figures: scripts/README.md, Near-twins.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from mllm_embed.errors import ImageError
from mllm_embed.inputs.images import load_image
from mllm_embed.types import ImageLike
from mllm_embed.vectors.ranking import top_k

from .twins import ALONE, Sharing

LIGHT = 10  # of 255, the most by which a block of a near-twin may be lighter or darker
COLOUR = 8  # of 255, the most by which the colour of an eighth of its width and height may differ
NEIGHBOURS = 8  # pictures that are looked at for each; a picture with more twins is joined to them by theirs
_CELL = 4  # pixels
_SIDE = 16  # of a thumbnail
_READERS = 8  # threads: decoding lets others run
_BAR_FILES = 2000


class _Thumbnails(NamedTuple):
    """Pictures in small: [n] int64 numbers, [n] int64 sizes (width << 32 | height), [n, 256] uint8 grey."""

    numbers: np.ndarray
    sizes: np.ndarray
    grey: np.ndarray


def near_twins(numbers: np.ndarray, names: Sequence[str], sharing: Sharing = ALONE) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of pictures that show the same, [P] and [P] int64 numbers, among those of all processes.

    Reads every picture once, and those of likely pairs once more: some milliseconds each. Takes 272 bytes of memory a
    picture.

    Args:
        numbers: [n] int64, those of this process's pictures.
        names: their files.
        sharing: with other processes.
    """
    likely = _likely(_gathered(_thumbnails(numbers, names), sharing), sharing)
    named = _named(np.unique(likely), dict(zip(numbers.tolist(), names, strict=True)), sharing)
    share = sharing.share(len(likely))
    found = [pair for pair in likely[share.start : share.stop].tolist() if same_picture(*map(named.__getitem__, pair))]
    pairs = np.array(found, np.int64).reshape(-1, 2)
    return sharing.gather(pairs[:, 0].copy()), sharing.gather(pairs[:, 1].copy())


def _named(wanted: np.ndarray, own: Mapping[int, str], sharing: Sharing) -> dict[int, str]:
    """Return the names of pictures [W] int64, each of which some process knows."""
    entries = b"".join(b"%d\t%s\0" % (n, os.fsencode(own[n])) for n in wanted.tolist() if n in own)
    entries += bytes(-len(entries) % 8)
    whole = sharing.gather(np.frombuffer(entries, np.int64)).tobytes()
    pairs = (entry.split(b"\t", 1) for entry in whole.split(b"\0") if entry)
    return {int(number): os.fsdecode(name) for number, name in pairs}


def same_picture(one: ImageLike, other: ImageLike) -> bool:
    """Return whether two pictures show the same in the same size; False where one cannot be read."""
    try:
        first, second = load_image(one), load_image(other)
    except ImageError:
        return False
    if first.size != second.size:
        return False
    light, colour = difference(first, second)
    return light <= LIGHT and colour <= COLOUR


def difference(one: Image.Image, other: Image.Image) -> tuple[int, int]:
    """Return by how much of 255 the lightness of a block of `_CELL` pixels, and the colour of one of 8 x 8 parts differ
    at most between two pictures of one size."""
    cells = max(one.width // _CELL, 1), max(one.height // _CELL, 1)
    return _apart(one, other, "L", cells), _apart(one, other, "YCbCr", (8, 8))


def _apart(one: Image.Image, other: Image.Image, mode: str, size: tuple[int, int]) -> int:
    first, second = (
        np.asarray(picture.convert(mode).resize(size, Image.Resampling.BOX), np.int16) for picture in (one, other)
    )
    return int(np.abs(first - second).max())


def _thumbnails(numbers: np.ndarray, names: Sequence[str]) -> _Thumbnails:
    hide = len(names) < _BAR_FILES
    with ThreadPoolExecutor(_READERS) as readers:
        shown = tqdm(readers.map(_thumbnail, names), total=len(names), desc="looking for near-twins", unit="picture",
                     leave=False, disable=hide, mininterval=1)  # fmt: skip
        made = list(shown)
    read = np.array([thumbnail is not None for thumbnail in made], bool)
    filled = [thumbnail for thumbnail in made if thumbnail is not None]
    return _Thumbnails(
        numbers[read],
        np.array([size for size, _ in filled], np.int64),
        np.array([grey for _, grey in filled], np.uint8).reshape(-1, _SIDE * _SIDE),
    )


def _thumbnail(name: str) -> tuple[int, np.ndarray] | None:
    try:
        picture = load_image(name)
    except ImageError:
        return None  # named when its row's turn comes
    width, height = picture.size
    small = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return width << 32 | height, np.asarray(small, np.uint8).reshape(-1)


def _gathered(own: _Thumbnails, sharing: Sharing) -> _Thumbnails:
    """Return the thumbnails of all processes, each once, in order of their numbers."""
    numbers, sizes = sharing.gather(own.numbers), sharing.gather(own.sizes)
    grey = sharing.gather(np.ascontiguousarray(own.grey).view(np.int64).reshape(-1)).view(np.uint8)
    numbers, first = np.unique(numbers, return_index=True)
    return _Thumbnails(numbers, sizes[first], grey.reshape(-1, _SIDE * _SIDE)[first])


def _likely(every: _Thumbnails, sharing: Sharing) -> np.ndarray:
    """Return the pairs [P, 2] int64 of numbers whose thumbnails are about the same, of pictures of one size."""
    found = [np.empty((0, 2), np.int64)]
    for size in np.unique(every.sizes):
        members = np.flatnonzero(every.sizes == size)
        if len(members) > 1:
            found.append(every.numbers[members[_neighbours(every.grey[members], sharing)]])
    pairs = np.concatenate(found)
    return np.stack([sharing.gather(pairs[:, 0].copy()), sharing.gather(pairs[:, 1].copy())], axis=1)


def _neighbours(grey: np.ndarray, sharing: Sharing) -> np.ndarray:
    """Return the pairs [P, 2] int64 of rows of `grey` [n, 256] that are near, each once, of this process's share."""
    values = grey.astype(np.float32) - 128
    # the nearest by distance is the best by this product: a . b - |b|^2 / 2
    gallery = np.concatenate([values, -np.square(values).sum(1, keepdims=True) / 2], axis=1)
    share = sharing.share(len(values))
    asking = np.concatenate([values, np.ones((len(values), 1), np.float32)], axis=1)[share.start : share.stop]
    if not len(asking):
        return np.empty((0, 2), np.int64)
    _, places = top_k(asking, gallery, NEIGHBOURS + 1)
    left = np.repeat(np.arange(share.start, share.stop), places.shape[1])
    right = places.reshape(-1)
    apart = np.abs(grey[left].astype(np.int16) - grey[right]).max(1)
    pairs = np.stack([np.minimum(left, right), np.maximum(left, right)], axis=1)[(apart <= LIGHT) & (left != right)]
    return np.unique(pairs, axis=0)
