"""What Pillow leaves aside in a PNG: checksums, pixels that are missing, and transparency of other than 8 bits."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

_GREY = 0
_SAMPLES = {_GREY: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_AT_ONCE = 1 << 20  # bytes that are unpacked at a time


def check_sums(content: bytes) -> None:
    """Raise SyntaxError or OSError for a chunk with a wrong checksum, and where the end is missing."""
    with _opened(content) as picture:
        picture.verify()


def finished(picture: Image.Image, content: bytes) -> Image.Image:
    """Return a picture that was loaded from a PNG with its transparency as the file says.

    Raises ValueError where the file has fewer pixels than its header says, which Pillow makes black.
    """
    width, height, depth, colour_type, _, _, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    # all of one of the last two rows is missing then; to unpack every file twice would take long
    for row in range(max(0, height - 2), height):
        if not any(picture.crop((0, row, width, row + 1)).tobytes()):
            _check_length(content, _unpacked_length(width, height, depth * _SAMPLES[colour_type], bool(interlaced)))
            break
    key = picture.info.get("transparency")
    if isinstance(key, int) and colour_type == _GREY and depth in (2, 4):
        # these bits are stretched to 8, the transparent number is not
        picture.info["transparency"] = key * 255 // (2**depth - 1)
    if isinstance(key, tuple) and depth == 8:
        picture.info["transparency"] = tuple(part & 255 for part in key)  # the rest does not count
    if isinstance(key, tuple) and depth == 16:
        del picture.info["transparency"]
        picture.putalpha(_unlike(picture, key, content))
    return picture


def _unlike(picture: Image.Image, key: tuple[int, ...], content: bytes) -> Image.Image:
    """Return where an RGB picture of 16 bits, of which `picture` has the upper 8, is not of one colour, as L."""
    with _opened(content) as lower:
        lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]  # the second byte of two
        lower.load()
        colour = np.array(key)
        alike = np.asarray(picture) == (colour >> 8).astype(np.uint8)
        alike &= np.asarray(lower) == (colour & 255).astype(np.uint8)
        return Image.fromarray(np.where(alike.all(-1), 0, 255).astype(np.uint8))


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=("PNG",))


def _unpacked_length(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Return how many bytes of pixels a PNG holds, each row with the number of its filter."""
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)


def _check_length(content: bytes, expected: int) -> None:
    stream = zlib.decompressobj()
    length = 0
    for packed in _pixel_chunks(content):
        while packed and length < expected:
            length += len(stream.decompress(packed, _AT_ONCE))
            packed = stream.unconsumed_tail
    if length < expected:
        raise ValueError(f"it ends after {length:,} of {expected:,} bytes of pixels")


def _pixel_chunks(content: bytes) -> Iterator[bytes]:
    at = 8
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] == b"IDAT":
            yield content[at + 8 : at + 8 + length]
        at += 12 + length
