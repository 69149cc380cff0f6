"""Small pictures of every format and mode, and what their pixels are, by a reading that shares no code with ours."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageOps

SIZE = (40, 28)


def _colours(seed: int = 0) -> np.ndarray:
    """Return pixels [H, W, 4] uint8, of patches that lossy formats keep apart, with noise on them."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (SIZE[1] // 4, SIZE[0] // 4, 4)).repeat(4, 0).repeat(4, 1)
    return np.clip(patches + rng.integers(-9, 10, patches.shape), 0, 255).astype(np.uint8)


def _encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.ImageDescription] = "a thing " * 20
    exif[ExifTags.Base.XResolution] = 72.0
    return exif


def made() -> dict[str, bytes]:
    """Return files of pictures by what they are."""
    pixels = _colours()
    rgba = Image.fromarray(pixels, "RGBA")
    rgb, grey = Image.fromarray(pixels[..., :3].copy(), "RGB"), Image.fromarray(pixels[..., 0].copy(), "L")
    deep = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (SIZE[1], SIZE[0])).astype(np.uint16))
    palette = rgb.quantize(16)
    return {
        "png": _encoded(rgb, "PNG"),
        "png rgba": _encoded(rgba, "PNG"),
        "png grey": _encoded(grey, "PNG"),
        "png 16": _encoded(deep, "PNG"),
        "png palette": _encoded(palette, "PNG"),
        "png clear colour": _encoded(palette, "PNG", transparency=3),
        "png bits": _encoded(grey.convert("1"), "PNG"),
        "png exif": _encoded(rgb, "PNG", exif=_exif()),
        "jpeg": _encoded(rgb, "JPEG", quality=90),
        "jpeg progressive": _encoded(rgb, "JPEG", quality=90, progressive=True),
        "jpeg exif": _encoded(rgb, "JPEG", quality=90, exif=_exif()),
        "jpeg cmyk": _encoded(rgb.convert("CMYK"), "JPEG", quality=90),
        "jpeg grey": _encoded(grey, "JPEG", quality=90),
        "webp": _encoded(rgb, "WEBP", quality=80),
        "webp lossless": _encoded(rgba, "WEBP", lossless=True, exact=True),
        "webp exif": _encoded(rgb, "WEBP", quality=80, exif=_exif()),
        "gif": _encoded(palette, "GIF"),
        "gif moving": _encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]),
        "bmp": _encoded(rgb, "BMP"),
        "tiff": _encoded(rgb, "TIFF", compression="tiff_deflate"),
        "tiff plain": _encoded(rgb, "TIFF"),
        "avif": _encoded(rgb, "AVIF"),
    }


def pixels_of(data: bytes) -> np.ndarray:
    """Return the pixels [H, W, 3] uint8 of a file of a picture as PIL decodes it: first frame, upright, over white.

    Raises whatever PIL raises.
    """
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return rgb_of(ImageOps.exif_transpose(picture))


def rgb_of(picture: Image.Image) -> np.ndarray:
    """Return the faithful 8-bit RGB [H, W, 3] of a PIL picture, worked out on its numbers."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        values = np.asarray(picture.convert("I")).astype(np.float64)
        return np.repeat(np.round(values / 257).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        parts = np.asarray(picture.convert("RGBA")).astype(np.float64)
        alpha = parts[..., 3:] / 255
        return np.round(parts[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.asarray(picture.convert("RGB"))


def near(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell whether two pictures are the same, but for how a half was rounded."""
    return a.shape == b.shape and int(np.abs(a.astype(int) - b.astype(int)).max(initial=0)) <= 1


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a PNG file: kind and content."""
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return the PNG file of some chunks, with right checksums."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in chunks:
        check = struct.pack(">I", zlib.crc32(kind + content))
        parts.append(struct.pack(">I", len(content)) + kind + content + check)
    return b"".join(parts)
