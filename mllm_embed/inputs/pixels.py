"""Pixels of every mode as opaque RGB of 8 bits, or a reason why there is no sure reading of them.

A grey picture of 16 bits is scaled as its format says: 65,535 is white. Numbers of 32 bits come without such a rule,
and are read by what they hold: up to 1, where they are floats, as from 0 to 1, up to 255 as 8 bits, up to 65,535 as 16.
Colour profiles are left aside, as the processors of models do: the numbers are taken as sRGB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

_BAND = 1 << 20  # pixels that are scaled at a time: it takes many times their bytes
_WHITES = {"I": (255.0, 65535.0), "F": (1.0, 255.0, 65535.0)}
_UNMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_KIND, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 254, 258, 262, 339  # tags of TIFF
_PREVIEW, _ZERO_IS_WHITE, _SIGNED = 1, 0, (2,)


def opaque_rgb(picture: Image.Image) -> Image.Image:
    """Return a loaded picture as RGB, what is transparent over white; itself where it is that already.

    Raises ValueError with the reason why it cannot be.
    """
    tags: Mapping[int, Any] = getattr(picture, "tag_v2", {})  # of a TIFF; other pictures have none
    _check_tags(picture, tags)
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _eight_bits(picture, tags)
    if picture.mode in _UNMULTIPLIED:  # which convert to nothing else
        picture = picture.convert(_UNMULTIPLIED[picture.mode])
    if picture.has_transparency_data:
        _check_key(picture.info.get("transparency"))
        layer = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        picture = Image.new("RGB", layer.size, "white")
        picture.paste(layer, mask=layer)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _check_tags(picture: Image.Image, tags: Mapping[int, Any]) -> None:
    if tags.get(_KIND, 0) & _PREVIEW:
        raise ValueError("its first page is a preview of another, as raw pictures of cameras have it; convert it first")
    if picture.mode == "L" and tags.get(_SAMPLE_FORMAT) == _SIGNED:
        raise ValueError("its numbers are signed, and which of them are black and white is not said")


def _check_key(transparent: object) -> None:
    # Pillow would take the lower half of each
    if isinstance(transparent, tuple) and max(transparent) > 255:
        raise ValueError("its transparent colour has 16 bits, its pixels 8")


def _eight_bits(picture: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Return a grey picture of wider pixels as L, what is transparent white."""
    wide = np.asarray(picture)  # [H, W] uint16, int32 or float32
    white = _white(wide, picture, tags)
    clear = picture.info.get("transparency")
    grey = np.empty(wide.shape, np.uint8)
    rows = max(1, _BAND // wide.shape[1])
    for top in range(0, len(wide), rows):
        band = wide[top : top + rows]
        scaled = np.rint(band * (255 / white))
        if tags and tags.get(_PHOTOMETRIC, _ZERO_IS_WHITE) == _ZERO_IS_WHITE:
            scaled = 255 - scaled
        if isinstance(clear, int):  # the one number of a PNG that is transparent
            scaled[band == clear] = 255
        grey[top : top + rows] = scaled
    return Image.fromarray(grey)


def _white(wide: np.ndarray, picture: Image.Image, tags: Mapping[int, Any]) -> float:
    """Return the number that is white among the pixels [H, W] of a picture."""
    if tags.get(_BITS) == (12,):
        return 4095.0
    # older versions of Pillow read 16 bits of PNG as 32
    if picture.mode not in _WHITES or picture.format == "PNG":
        return 65535.0
    low, high = float(wide.min()), float(wide.max())
    # NaN is neither
    if low >= 0:
        for white in _WHITES[picture.mode]:
            if high <= white:
                return white
    raise ValueError(
        f"its numbers go from {low:,.7g} to {high:,.7g}, and which of them are black and white is not said; "
        "scale them to 8 or 16 bits"
    )
