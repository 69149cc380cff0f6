"""Small pictures for a page: each is made once, those that are seen most and highest first, up to a number of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

from PIL import Image, features
from tqdm import tqdm

from mllm_embed.errors import ImageError
from mllm_embed.inputs.images import load_image
from mllm_embed.types import ImageLike, picture_key

from . import MEGABYTES

SIDE = 112  # pixels of the longer side: what a tile of the page has on a screen of two dots a pixel
QUALITY = 50
UNIT = 1_000_000
LEFT_OUT, UNREADABLE = -1, -2  # in place of a thumbnail's number
_AT_ONCE = 64  # pictures made before the bytes are counted again


@dataclass(frozen=True)
class Kept:
    """A thumbnail that another page holds, in base64; LEFT_OUT or UNREADABLE, and of what, where it holds none."""

    file: str | int
    of: Hashable = None


Picture: TypeAlias = ImageLike | Kept


@dataclass
class Wanted:
    """The pictures that a page shows, and how much each is seen.

    Attributes:
        pictures: in the order in which they were first named; its index is a picture's number.
        weights: how much each is seen, the sum over the places where it stands.
    """

    pictures: list[Picture] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    _numbers: dict[Hashable, int] = field(default_factory=dict, repr=False)

    def add(self, picture: Picture, weight: float) -> int:
        """Return the number of a picture, which stands in one more place of a weight."""
        key = picture if isinstance(picture, Kept) else picture_key(picture)
        number = self._numbers.setdefault(key, len(self.pictures))
        if number == len(self.pictures):
            self.pictures.append(picture)
            self.weights.append(0.0)
        self.weights[number] += weight
        return number


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails in base64, and where each picture's is.

    Attributes:
        files: in the order in which they stand in the page.
        places: for each picture the index in `files`, LEFT_OUT or UNREADABLE.
    """

    files: list[str]
    places: list[int]

    def note(self, megabytes: float) -> str:
        """Return in a sentence what is there and what is not."""
        left_out, unreadable = (self.places.count(why) for why in (LEFT_OUT, UNREADABLE))
        size = sum(map(len, self.files)) / UNIT
        shown = len(self.places) - left_out - unreadable
        said = f"Thumbnails: {shown:,} of {len(self.places):,} pictures, {size:.1f} MB."
        if left_out:
            said += (
                f" {left_out:,} are left out, those that stand lowest and least often: the page has room for "
                f"{megabytes:g} MB of them (--thumbnails)."
            )
        return said + (f" {unreadable:,} cannot be read." if unreadable else "")

    def placed(self, pictures: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the places of the thumbnails of pictures, which are given by their numbers."""
        return [list(map(self.places.__getitem__, own)) for own in pictures]


def make_thumbnails(wanted: Wanted, megabytes: float = MEGABYTES, progress: bool | None = None) -> Thumbnails:
    """Return the thumbnails of pictures, those of the greatest weight first, as many as fit.

    A picture that cannot be read has none. The same pictures give the same bytes.

    Args:
        wanted: the pictures.
        megabytes: of base64, all together.
        progress: whether to show a bar; None shows one on a terminal.
    """
    order = sorted(range(len(wanted.pictures)), key=lambda number: -wanted.weights[number])
    places = [LEFT_OUT] * len(order)
    files: dict[str, int] = {}  # two files may hold one picture
    room = megabytes * UNIT
    hide = None if progress is None else not progress
    with tqdm(total=len(order), desc="thumbnails", unit="picture", disable=hide, mininterval=1) as bar:
        for number, file in _made(order if room > 0 else [], wanted.pictures):
            bar.update()
            if isinstance(file, int):
                places[number] = file
                continue
            room -= 0 if file in files else len(file)
            if room < 0:
                break
            places[number] = files.setdefault(file, len(files))
    return Thumbnails(list(files), places)


def _made(order: Sequence[int], pictures: Sequence[Picture]) -> Iterator[tuple[int, str | int]]:
    """Yield numbers and thumbnails in order, made some at a time: Pillow decodes without Python's lock."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(order), _AT_ONCE):
            numbers = order[start : start + _AT_ONCE]
            yield from zip(numbers, pool.map(thumbnail, [pictures[number] for number in numbers]), strict=True)


def thumbnail(picture: Picture) -> str | int:
    """Return a small WebP in base64 (a JPEG where Pillow was built without WebP); UNREADABLE for a bad picture."""
    if isinstance(picture, Kept):
        return picture.file
    try:
        small = load_image(picture, jpeg_side=2 * SIDE)  # a 12-megapixel JPEG takes a fifth of the time
    except ImageError:
        return UNREADABLE
    if max(small.size) > SIDE:
        small = small.copy()  # of a picture in memory, which is somebody else's
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP" if features.check("webp") else "JPEG", quality=QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
