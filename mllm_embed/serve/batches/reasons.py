"""Why an input cannot be embedded, for whoever sent it.

What a decoder or a processor says may hold an address in memory or a path of this machine: none of it goes out. The
pictures of an input that failed are decoded once more to find out what is wrong with it, and that is said in words of
our own. `Lengths` names the client's own words, and pictures as given.
"""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from ...errors import DataError, ImageError
from ...inputs.item_processor import ItemProcessor
from ...inputs.lengths import Lengths
from ...types import Item

_SHORTER = "shorten it, or give fewer pictures"


def reason(item: Item, items: ItemProcessor) -> str:
    """Return one sentence on an input that could not be embedded by a model with this processor."""
    try:
        pictures = decoded(item, items)
    except ImageError as error:
        return str(error)
    # decoded pictures have no names, and so no paths
    return _of_decoded(replace(item, image=pictures) if pictures else item, pictures, items)


def decoded(item: Item, items: ItemProcessor) -> list[Image.Image]:
    """Return the pictures of an input. Raises ImageError, in words of our own, for the first that cannot be decoded."""
    pictures: list[Image.Image] = []
    for number, image in enumerate(item.images, 1):
        try:
            pictures.append(items.load(image))
        except ImageError as error:
            which = "its picture" if len(item.images) == 1 else f"its picture {number}"
            told = f"{which} cannot be decoded: it is damaged, cut short or too large; send a whole JPEG, PNG or WebP"
            raise ImageError(told) from error
    return pictures


def _of_decoded(item: Item, pictures: list[Image.Image], items: ItemProcessor) -> str:
    """Return what is wrong with an input whose pictures are whole."""
    lengths = Lengths(items, items.lengths.limit, _SHORTER)
    try:
        item = lengths.bounded(item)
        prompt = items.tokenise([items.render(item)])[0]
        items.pooled.check(item, prompt.tokens)
    except DataError as error:
        return str(error)
    try:
        more = items.more_tokens(prompt, tuple(picture.size for picture in pictures))
    except DataError:
        sizes = ", ".join(f"{picture.width} x {picture.height}" for picture in pictures)
        return f"this model takes no picture of {sizes} pixels; send one of a more common shape and size"
    try:
        lengths.fitted(item, prompt, more)
    except DataError as error:
        return str(error)
    return "this model cannot read it; send other words or another picture"
