"""Every mode that PIL opens ends as RGB of 8 bits that shows what the picture holds."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from mllm_embed.errors import ImageError
from mllm_embed.inputs.images import content_key, load_image

RAMP = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)  # of 16 bits; in 8 bits it is 0 to 255
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
OPAQUE, HALF, CLEAR = 255, 128, 0
TYPES = {"I;16": np.dtype("<u2"), "I;16L": np.dtype("<u2"), "I;16B": np.dtype(">u2"), "I;16N": np.dtype(np.uint16)}


def _saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(depth: int, colour_type: int, rows: np.ndarray, *, width: int, extra: bytes = b"") -> bytes:
    """Return a PNG of rows of bytes [H, ...], as few writers make it."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _pixels(source: Image.Image | bytes) -> np.ndarray:
    loaded = load_image(source)
    assert loaded.mode == "RGB"
    return np.asarray(loaded).astype(int)


def _assert_grey(source: Image.Image | bytes, expected: np.ndarray, within: int = 0) -> None:
    found = _pixels(source)
    assert np.abs(found - expected.astype(int)[..., None]).max() <= within


def _over_white(value: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.rint(value * (alpha / 255.0) + 255 - alpha).astype(int)


@pytest.mark.parametrize("mode", TYPES)
def test_16_bits_in_memory(mode: str) -> None:
    picture = Image.frombytes(mode, (16, 16), RAMP.astype(TYPES[mode]).tobytes())
    _assert_grey(picture, GREY)


@pytest.mark.parametrize("array", [RAMP.astype(np.int32), RAMP.astype(np.float32)])
def test_16_bits_in_wider_numbers(array: np.ndarray) -> None:
    _assert_grey(Image.fromarray(array), GREY)


@pytest.mark.parametrize(
    "array", [GREY.astype(np.int32), GREY.astype(np.float32), (GREY / 255).astype(np.float32), GREY % 2 == 1]
)
def test_numbers_up_to_255_and_up_to_1(array: np.ndarray) -> None:
    _assert_grey(Image.fromarray(array), GREY % 2 * 255 if array.dtype == bool else GREY)


@pytest.mark.parametrize(
    "values", [[0, 70_000], [-1, 200], [-(2**31), 2**31 - 1], [0.0, 1e9], [-0.5, 0.5], [0, np.nan], [0, np.inf]]
)
def test_numbers_without_a_sure_reading_are_refused(values: list[float]) -> None:
    array = np.array([values], np.int32 if all(isinstance(value, int) for value in values) else np.float32)
    with pytest.raises(ImageError, match="black and white is not said"):
        load_image(Image.fromarray(array))


def test_ten_pictures_of_16_bits_are_ten_pictures() -> None:
    drawn = np.random.default_rng(0).integers(0, 65536, (10, 8, 8)).astype(np.uint16)
    pictures = [Image.fromarray(array) for array in drawn]
    assert len({content_key(picture) for picture in pictures}) == 10
    for array, picture in zip(drawn, pictures, strict=True):
        _assert_grey(_saved(picture), np.rint(array / 257))
        _assert_grey(_saved(picture, "TIFF"), np.rint(array / 257))
        _assert_grey(_saved(picture, "TIFF", compression="tiff_lzw"), np.rint(array / 257))


def test_png_of_16_bits_in_colour_and_with_alpha() -> None:
    alpha = np.full_like(RAMP, 0x8080)
    colour = np.stack([RAMP, RAMP[::-1], RAMP.T], -1)
    expected = colour // 257
    content = _png(16, 2, colour.astype(">u2"), width=16)
    assert np.abs(_pixels(content) - expected).max() <= 1
    content = _png(16, 6, np.concatenate([colour, alpha[..., None]], -1).astype(">u2"), width=16)
    assert np.abs(_pixels(content) - _over_white(expected, alpha[..., None] // 257)).max() <= 1
    content = _png(16, 4, np.stack([RAMP, alpha], -1).astype(">u2"), width=16)
    _assert_grey(content, _over_white(GREY, alpha // 257), within=1)


def test_transparent_numbers_of_a_png() -> None:
    # grey of 16 bits: one number, exactly
    array = np.array([[0x1234, 0x1235, 0xFFFF]], ">u2")
    content = _png(16, 0, array, width=3, extra=_chunk(b"tRNS", struct.pack(">H", 0x1234)))
    _assert_grey(content, np.array([[255, 0x12, 255]]))
    # colour of 16 bits: the lower bytes count too
    array = np.array([[[0x1234, 0x5678, 0x9ABC], [0x1200, 0x5678, 0x9ABC]]], ">u2")
    content = _png(16, 2, array, width=2, extra=_chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)))
    assert _pixels(content).tolist() == [[[255, 255, 255], [0x12, 0x56, 0x9A]]]
    # grey of 2 bits: the number is stretched as the pixels are
    content = _png(2, 0, np.array([[0b00011011]], np.uint8), width=4, extra=_chunk(b"tRNS", struct.pack(">H", 1)))
    _assert_grey(content, np.array([[0, 255, 170, 255]]))
    content = _png(8, 0, GREY, width=16, extra=_chunk(b"tRNS", struct.pack(">H", 7)))
    _assert_grey(content, np.where(GREY == 7, 255, GREY))


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "P"])
def test_opaque_modes(mode: str) -> None:
    colour = Image.new("RGB", (4, 4), (200, 100, 50))
    grey = mode in ("1", "L")
    picture = (Image.new("L", (4, 4), 255) if grey else colour).convert(mode)
    expected = 255 if grey else np.array([200, 100, 50])
    assert np.abs(_pixels(picture) - expected).max() <= (25 if mode == "P" else 3)


@pytest.mark.parametrize("alpha", [OPAQUE, HALF, CLEAR])
@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_modes_with_alpha_lie_over_white(mode: str, alpha: int) -> None:
    picture = Image.new("RGBA", (4, 4), (200, 200, 200, alpha))
    if mode == "PA":
        picture = Image.merge("PA", (Image.new("P", (4, 4), 1), Image.new("L", (4, 4), alpha)))
        picture.putpalette([0, 0, 0, 200, 200, 200])
    elif mode in ("LA", "La"):
        picture = Image.new("LA", (4, 4), (200, alpha)).convert(mode)
    picture = picture.convert(mode)
    assert picture.mode == mode
    _assert_grey(picture, _over_white(np.full((4, 4), 200), np.full((4, 4), alpha)), within=1)


def _palette_picture() -> Image.Image:
    picture = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    picture.putpalette([10, 10, 10, 20, 20, 20, 30, 30, 30])
    return picture


def _palette_with_alpha() -> Image.Image:
    picture = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    picture.putpalette([10, 10, 10, 255, 20, 20, 20, 0, 30, 30, 30, 128], "RGBA")
    return picture


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: _saved(_palette_picture()), [10, 20, 30]),
        (lambda: _saved(_palette_picture(), transparency=1), [10, 255, 30]),
        (lambda: _saved(_palette_picture(), transparency=bytes([255, 0, 128])), [10, 255, 142]),
        (lambda: _saved(_palette_picture(), "GIF", transparency=1), [10, 255, 30]),
        (_palette_with_alpha, [10, 255, 142]),
    ],
)
def test_palettes(made: Callable[[], Image.Image | bytes], expected: list[int]) -> None:
    _assert_grey(made(), np.array([expected]), within=1)


def test_cmyk_of_adobe() -> None:
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    assert np.abs(_pixels(_saved(picture, "JPEG", quality=95)) - np.array([255, 0, 0])).max() <= 3


def _tiff(bits: int, photometric: int, content: bytes, *, sample_format: int = 1, kind: int = 0) -> bytes:
    """Return a TIFF of 2 x 1 grey pixels."""
    # tag, type (3: short, 4: long), value
    entries = [
        (254, 4, kind), (256, 3, 2), (257, 3, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 200),
        (277, 3, 1), (278, 3, 1), (279, 4, len(content)), (339, 3, sample_format),
    ]  # fmt: skip
    packed = b"".join(struct.pack("<HHII", tag, form, 1, value) for tag, form, value in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", 0)
    return head.ljust(200, b"\0") + content


def test_grey_tiff_of_odd_kinds() -> None:
    two = struct.pack("<2H", 0, 257 * 200)
    _assert_grey(_tiff(16, 1, two), np.array([[0, 200]]))
    _assert_grey(_tiff(16, 0, two), np.array([[255, 55]]))  # zero is white
    _assert_grey(_tiff(12, 1, bytes([0x00, 0x0F, 0xFF])), np.array([[0, 255]]))  # 12 bits: 4095 is white
    _assert_grey(_tiff(32, 0, struct.pack("<2f", 0, 1), sample_format=3), np.array([[255, 0]]))
    with pytest.raises(ImageError, match="signed"):
        load_image(_tiff(8, 1, bytes([0, 255]), sample_format=2))
    with pytest.raises(ImageError, match="preview"):
        load_image(_tiff(8, 1, bytes([0, 255]), kind=1))


def test_conversion_leaves_the_given_picture_alone() -> None:
    picture = Image.fromarray(RAMP)
    load_image(picture)
    assert picture.mode == "I;16"
    assert (np.asarray(picture) == RAMP).all()


def test_numbers_are_taken_as_srgb() -> None:
    profile = b"not a profile that says anything"
    assert (_pixels(_saved(Image.new("RGB", (2, 2), (9, 99, 199)), icc_profile=profile)) == [9, 99, 199]).all()
