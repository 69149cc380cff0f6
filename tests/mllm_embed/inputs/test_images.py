"""Pictures as people have them: odd modes and rotations are read, broken files are named."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllm_embed.errors import ImageError
from mllm_embed.inputs.images import content_key, glance, load_image
from mllm_embed.inputs.picture_formats import IMAGE_FORMATS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # of damaged files


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.new("L", (5, 4), 255).convert(mode) if mode != "I;16" else Image.new(mode, (5, 4))
    file = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    picture.save(file)
    loaded = load_image(file)
    assert (loaded.mode, loaded.size) == ("RGB", (5, 4))


def test_transparency_lies_over_white() -> None:
    assert load_image(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_rotation_and_first_frame(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (4, 8)
    frames = [Image.new("RGB", (3, 3), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "moving.gif").getpixel((0, 0)) == (254, 0, 0) or load_image(
        tmp_path / "moving.gif"
    ).getpixel((0, 0)) == (255, 0, 0)


def test_bytes_and_paths_agree(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (3, 3), "teal").save(file)
    assert load_image(file).tobytes() == load_image(file.read_bytes()).tobytes() == load_image(str(file)).tobytes()
    assert content_key(file) == content_key(file.read_bytes())


def _broken(folder: Path) -> dict[str, tuple[object, str]]:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(whole, "JPEG")
    (folder / "cut.jpg").write_bytes(whole.getvalue()[:900])
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.jpg").write_bytes(b"")
    Image.new("1", (9000, 9000)).save(folder / "huge.png")
    Image.new("RGB", (2, 2)).save(folder / "x.ppm")
    names = {
        "truncated": ("cut.jpg", "cannot be read"),
        "text": ("text.png", "is not a"),
        "empty": ("empty.jpg", "is not a"),
        "bomb": ("huge.png", "81000000|9000 x 9000|limit"),
        "format": ("x.ppm", "is not a"),
        "missing": ("none.png", "does not exist"),
        "folder": (".", "is a folder"),
    }
    return {key: (folder / name, message) for key, (name, message) in names.items()}


@pytest.mark.parametrize("case", ["truncated", "text", "empty", "bomb", "format", "missing", "folder"])
def test_unreadable_pictures_are_named(tmp_path: Path, case: str) -> None:
    path, message = _broken(tmp_path)[case]
    with pytest.raises(ImageError, match=message) as caught:
        load_image(path)
    assert str(path) in str(caught.value)


def test_urls_are_not_fetched() -> None:
    with pytest.raises(ImageError, match="is a URL"):
        load_image("https://example.org/a.png")


def _noise(size: tuple[int, int] = (64, 48), seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def _saved(kind: str, picture: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (picture or _noise()).save(file, kind, **options)
    return file.getvalue()


def _with_exif(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "maker " * 5
    return _saved(kind, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_way_to_turn_a_picture(kind: str, orientation: int) -> None:
    content = _with_exif(kind, orientation)
    loaded = load_image(content)
    assert loaded.size == ((64, 48) if orientation < 5 else (48, 64)) == glance(content).size
    upright = load_image(_saved(kind)).transpose
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }  # fmt: skip
    if kind in ("PNG", "TIFF"):  # which lose nothing
        assert orientation == 1 or loaded.tobytes() == upright(turned[orientation]).tobytes()
    # read again, from PIL, and both
    opened = Image.open(io.BytesIO(content))
    assert glance(opened).size == loaded.size
    for source in (loaded, opened, load_image(opened)):
        assert load_image(source).tobytes() == loaded.tobytes()


def _damaged_exif() -> dict[str, bytes]:
    content = _with_exif("JPEG", 6)
    at = content.index(b"Exif\0\0") + 6
    return {
        "head": content[:at] + b"ZZZZZZZZ" + content[at + 8 :],
        "offset": content[: at + 4] + b"\xff\xff\xff\xff" + content[at + 8 :],
        "count": content[: at + 8] + b"\xff\xff" + content[at + 10 :],
    }


@pytest.mark.parametrize("case", ["head", "offset", "count"])
def test_a_damaged_exif_block_stops_nothing(case: str) -> None:
    content = _damaged_exif()[case]
    loaded = load_image(content)
    # what cannot be read turns nothing
    assert loaded.size == ((48, 64) if case == "count" else (64, 48)) == glance(content).size
    for source in (loaded, Image.open(io.BytesIO(content)), load_image(Image.open(io.BytesIO(content)))):
        assert load_image(source).tobytes() == loaded.tobytes()


def test_remarks_of_pillow_are_kept_back(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(_damaged_exif()["count"])
    code = f"from mllm_embed.inputs.images import load_image; load_image({str(tmp_path / 'a.jpg')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def _lazy(folder: Path) -> dict[str, Image.Image]:
    path = folder / "a.png"
    path.write_bytes(_saved("PNG"))
    with path.open("rb") as file:
        closed = Image.open(file)
    with Image.open(path) as left:
        pass
    shut = Image.open(path)
    shut.close()
    damaged = bytearray(path.read_bytes())
    damaged[-20] ^= 1  # the checksum of the pixels, which Pillow does not look at
    return {
        "closed": closed,
        "left": left,
        "shut": shut,
        "cut": Image.open(io.BytesIO(path.read_bytes()[:900])),
        "cut JPEG": Image.open(io.BytesIO(_saved("JPEG")[:1000])),
        "damaged": Image.open(io.BytesIO(bytes(damaged))),
        "huge": Image.open(io.BytesIO(_saved("PNG", Image.new("1", (9000, 9000))))),
        "huge in memory": Image.new("1", (9000, 9000)),
        "none": Image.new("RGB", (0, 5)),
        "nothing": Image.Image(),
    }


@pytest.mark.parametrize(
    "case",
    ["closed", "left", "shut", "cut", "cut JPEG", "damaged", "huge", "huge in memory", "none", "nothing"],
)
def test_pil_pictures_that_cannot_be_read(tmp_path: Path, case: str) -> None:
    picture = _lazy(tmp_path)[case]
    # Pillow gives half of a damaged picture when it is asked a second time
    for read in (load_image, load_image, glance, content_key):
        with pytest.raises(ImageError, match="^the given picture"):
            read(picture)


def test_a_lazy_pil_picture_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_saved("PNG"))
    assert load_image(Image.open(path)).tobytes() == load_image(path).tobytes() == _noise().tobytes()
    upright = load_image(path)
    assert load_image(upright) is upright


class _Made:
    """A picture that cannot be made."""

    def read(self) -> Image.Image:
        raise OSError("no such crop")

    def __repr__(self) -> str:
        return "a crop\n" * 100


def test_a_picture_that_cannot_be_made_is_named() -> None:
    with pytest.raises(ImageError, match=r"^a crop.*no such crop.*mend what makes it") as caught:
        load_image(_Made())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_format_that_pillow_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    content = _saved("AVIF")
    monkeypatch.delitem(Image.OPEN, "AVIF")
    with pytest.raises(ImageError, match="the installed Pillow cannot read"):
        load_image(content)


def test_an_open_file_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_saved("PNG"))
    with path.open("rb") as file, pytest.raises(ImageError, match="gives a bytes in place of a PIL picture"):
        load_image(file)  # type: ignore[arg-type]


def _short_png(interlace: int, missing: int) -> bytes:
    """Return a white PNG of 8 x 9 grey pixels, its checksums right, without some bytes of its pixels."""
    whole = _saved("PNG", Image.new("L", (8, 9), 255))
    rows = (b"\0" + b"\xff" * 8) * 9
    if interlace:  # seven passes, of rows of these lengths
        lengths = [1] * 2 + [1] * 2 + [2] + [2] * 3 + [4] * 2 + [4] * 5 + [8] * 4
        rows = b"".join(b"\0" + b"\xff" * length for length in lengths)
    packed = zlib.compress(rows[: len(rows) - missing])

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = whole[16:28] + bytes([interlace])
    return whole[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("interlace", [0, 1])
def test_a_png_with_fewer_pixels_than_it_says(interlace: int) -> None:
    assert load_image(_short_png(interlace, 0)).getcolors() == [(72, (255, 255, 255))]
    for missing in (9, 18):  # whole rows; Pillow itself notices parts of one
        with pytest.raises(ImageError, match="bytes of pixels"):
            load_image(_short_png(interlace, missing))
    black = Image.new("RGB", (30, 20))
    assert load_image(_saved("PNG", black)).tobytes() == black.tobytes()


def test_a_png_with_a_byte_changed_is_refused_or_the_same() -> None:
    drawn = random.Random(0)
    for content in (_saved("PNG"), _saved("PNG", _noise().quantize(16), transparency=3)):
        whole = load_image(content).tobytes()
        refused = 0
        for _ in range(200):
            damaged = bytearray(content)
            damaged[drawn.randrange(len(content))] ^= drawn.randrange(1, 256)
            try:
                assert load_image(bytes(damaged)).tobytes() == whole
            except ImageError:
                refused += 1
        assert refused > 190


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_a_file_that_was_cut_is_refused_or_the_same(kind: str) -> None:
    content = _saved(kind, _noise((16, 12)))
    whole = load_image(content).tobytes()
    refused = 0
    lengths = sorted({*range(0, len(content), 5), *range(len(content) - 20, len(content))})
    for length in lengths:
        try:
            assert load_image(content[:length]).tobytes() == whole
        except ImageError:
            refused += 1
    assert refused >= len(lengths) - 5
    # what stands behind a picture does not matter
    assert load_image(content + b"\0 more").tobytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_damage_of_any_kind_is_a_picture_or_a_sentence(kind: str) -> None:
    drawn = random.Random(kind)
    content = _saved(kind)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(drawn.choice([1, 1, 3, 20])):
            damaged[drawn.randrange(len(damaged))] = drawn.randrange(256)
        for read in (load_image, glance):
            try:
                read(bytes(damaged))
            except ImageError as error:
                assert "\n" not in str(error)
                assert len(str(error)) < 500


def test_a_canvas_over_the_limit_takes_no_memory() -> None:
    content = bytearray(_saved("WEBP", Image.new("RGBA", (8, 8), (1, 2, 3, 4)), exif=b"Exif\0\0II*\0"))
    assert content[12:16] == b"VP8X"
    content[24:30] = b"\xff\x3f\0\xff\x3f\0"
    with pytest.raises(ImageError, match="16384 x 16384 pixels, over the limit"):
        glance(bytes(content))
