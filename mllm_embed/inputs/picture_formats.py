"""The formats of pictures that are read, told by how their files begin; a suffix says nothing."""

from __future__ import annotations

from collections.abc import Callable

HEAD = 256
"""Bytes of a file that tell its format."""
_BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # lengths that the second header of a BMP has
_AVIF_BRANDS = (b"avif", b"avis")


def _webp(head: bytes) -> bool:
    return head.startswith(b"RIFF") and head[8:12] == b"WEBP"


def _bitmap(head: bytes) -> bool:
    # "BM" alone begins many a text
    return head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BITMAP_HEADERS


def _avif(head: bytes) -> bool:
    # a list of brands: the major one, a version, the compatible ones; HEIC has others in the same container
    brands = head[8 : int.from_bytes(head[:4], "big")]
    return head[4:8] == b"ftyp" and any(brands[at : at + 4] in _AVIF_BRANDS for at in range(0, len(brands), 4))


def _begins(*starts: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(starts)


_TELLS: dict[str, Callable[[bytes], bool]] = {
    "JPEG": _begins(b"\xff\xd8\xff"),
    "PNG": _begins(b"\x89PNG\r\n\x1a\n"),
    "WEBP": _webp,
    "BMP": _bitmap,
    "GIF": _begins(b"GIF87a", b"GIF89a"),
    # the second pair is BigTIFF
    "TIFF": _begins(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "AVIF": _avif,
}
IMAGE_FORMATS = tuple(_TELLS)


def format_of(head: bytes) -> str | None:
    """Return which of IMAGE_FORMATS a file has that begins with `head`, its first HEAD bytes; None for another."""
    return next((name for name, tells in _TELLS.items() if tells(head)), None)


def claimed_size(content: bytes) -> tuple[int, int] | None:
    """Return width and height of an extended WEBP, which Pillow takes memory for on opening it; None for others."""
    if not _webp(content) or content[12:16] != b"VP8X" or len(content) < 30:
        return None
    return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
