"""Pictures of PIL in every mode and state, and all that may stand where a picture's path is expected."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fuzz.tools.harness import RIGHT, TOLD, Case, Told, attempt, expect, sift
from fuzz.tools.pictures import SIZE, made, near, rgb_of
from mllm_embed import MLLMEmbedder
from mllm_embed.inputs.images import load_image

Make = Callable[[Path], Any]
FILES = made()


def _rgba() -> Image.Image:
    return Image.open(io.BytesIO(FILES["png rgba"]))


def _values(high: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, (SIZE[1], SIZE[0]))


def _mode(mode: str) -> Image.Image:
    if mode.startswith("I"):
        # PIL makes the 16-bit modes of bytes alone
        return Image.frombytes(
            mode, SIZE, _values(65536).astype({"I": "<i4", "I;16B": ">u2"}.get(mode, "<u2")).tobytes()
        )
    if mode == "LAB":
        return Image.frombytes("LAB", SIZE, _values(256).astype(np.uint8).repeat(3).tobytes())
    if mode == "F":
        return Image.fromarray(_values(256).astype(np.float32))
    if mode in ("RGBa", "La"):
        return _rgba().convert({"La": "LA"}.get(mode, "RGBA")).convert(mode)
    return _rgba().convert(mode if mode in ("LA", "PA", "RGBA") else "RGB").convert(mode)


def _pixels(mode: str) -> np.ndarray:
    """Return the faithful RGB of `_mode(mode)`."""
    if mode == "RGBa":
        return rgb_of(_rgba())
    if mode == "La":
        return rgb_of(_rgba().convert("LA"))
    if mode.startswith("I"):
        return np.round(_values(65536) / 257).astype(np.uint8)[..., None].repeat(3, axis=2)
    if mode == "F":
        return _values(256).astype(np.uint8)[..., None].repeat(3, axis=2)
    return rgb_of(_mode(mode))


MODES = [
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "LA",
    "PA",
    "RGBa",
    "La",
    "I;16",
    "I;16L",
    "I;16B",
]
MODE_CASES = [Case(f"mode {mode}", mode) for mode in MODES]


@pytest.mark.slow
def test_every_mode_is_read_faithfully() -> None:
    def judge(case: Case) -> str:
        picture = attempt(lambda: load_image(_mode(case.what)))
        if isinstance(picture, Told):
            return TOLD
        found, right = np.asarray(picture).astype(int), _pixels(case.what)
        # premultiplied colours have lost what their alpha rounds away
        worst = int(np.abs(found - right).max()) if found.shape == right.shape else 255
        expect(worst <= (2 if case.what.endswith("a") else 1), f"pixels off by up to {worst}")
        return RIGHT

    sift("modes of PIL", MODE_CASES, judge)


def _closed(folder: Path) -> Image.Image:
    picture = Image.open(io.BytesIO(FILES["png"]))
    picture.close()
    return picture


def _file_closed(folder: Path) -> Image.Image:
    (folder / "a.png").write_bytes(FILES["png"])
    with (folder / "a.png").open("rb") as file:
        return Image.open(file)


def _file_gone(folder: Path) -> Image.Image:
    (folder / "a.png").write_bytes(FILES["png"])
    picture = Image.open(folder / "a.png")
    (folder / "a.png").unlink()
    return picture


def _loaded_closed(folder: Path) -> Image.Image:
    picture = Image.open(io.BytesIO(FILES["png"]))
    picture.load()
    picture.close()
    return picture


def _with_info(mode: str = "RGB", **info: Any) -> Image.Image:
    picture = Image.new(mode, (3, 3))
    picture.info.update(info)
    return picture


def _seeked(folder: Path) -> Image.Image:
    picture = Image.open(io.BytesIO(FILES["gif moving"]))
    picture.seek(1)
    return picture


def _lazy(data: bytes) -> Make:
    return lambda folder: Image.open(io.BytesIO(data))


# what comes out must be these pixels, or a sentence
LAZY: dict[str, tuple[Make, str]] = {
    "lazy": (_lazy(FILES["png"]), "png"),
    "lazy rgba": (_lazy(FILES["png rgba"]), "png rgba"),
    "closed": (_closed, "png"),
    "its file closed": (_file_closed, "png"),
    "its file gone": (_file_gone, "png"),
    "loaded and closed": (_loaded_closed, "png"),
    "lazy and cut": (_lazy(FILES["jpeg"][:900]), "jpeg"),
    "lazy and cut png": (_lazy(FILES["png"][:900]), "png"),
    "lazy and cut gif": (_lazy(FILES["gif"][:700]), "gif"),
    "lazy and cut bmp": (_lazy(FILES["bmp"][:900]), "bmp"),
    "lazy with a wrong checksum": (_lazy(FILES["png"][:700] + b"x" + FILES["png"][701:]), "png"),
}
# what comes out may be anything of the right size, or a sentence
ODD: dict[str, Make] = {
    "another frame": _seeked,
    "no pixel wide": lambda folder: Image.new("RGB", (0, 5)),
    "no pixel high": lambda folder: Image.new("RGB", (5, 0)),
    "over the limit": lambda folder: Image.new("1", (9000, 9000)),
    "long": lambda folder: Image.new("RGB", (20_000, 1), "red"),
    "high": lambda folder: Image.new("RGB", (1, 20_000), "red"),
    "floats of nan": lambda folder: Image.fromarray(np.full((4, 4), np.nan, np.float32)),
    "floats of infinity": lambda folder: Image.fromarray(np.full((4, 4), np.inf, np.float32)),
    "negative numbers": lambda folder: Image.fromarray(np.full((4, 4), -5, np.int32)),
    "numbers of 32 bits": lambda folder: Image.fromarray(np.full((4, 4), 2**31 - 1, np.int32)),
    "transparency of nonsense": lambda folder: _with_info(transparency="what"),
    "transparency too high": lambda folder: _with_info("P", transparency=999),
    "transparency of a grey": lambda folder: _with_info("L", transparency=0),
    "exif of nonsense": lambda folder: _with_info(exif=b"Exif\0\0nonsense"),
    "exif of text": lambda folder: _with_info(exif="what"),
    "a palette without colours": lambda folder: Image.frombytes("P", (2, 2), bytes([0, 1, 2, 255])),
}
STATE_CASES = [Case(f"a PIL picture, {name}", name) for name in (*LAZY, *ODD)]


@pytest.mark.slow
def test_every_state_of_a_picture(tmp_path: Path, embedder: MLLMEmbedder) -> None:
    def judge(case: Case) -> str:
        make = ODD[case.what] if case.what in ODD else LAZY[case.what][0]
        lost: dict[int, str] = {}
        found = attempt(lambda: embedder.encode([make(tmp_path), "a word"], unreadable=lost, show_progress=False))
        expect(not isinstance(found, Told), f"a bad picture ends the whole call: {found}")
        expect(bool(np.isfinite(found).all()), "a vector of NaN")
        expect(float(found[1] @ embedder.encode(["a word"], show_progress=False)[0]) > 0.9999, "another's vector")
        picture = attempt(lambda: load_image(make(tmp_path)))
        expect((0 in lost) == isinstance(picture, Told), f"the embedder says {lost}, the reader {picture}")
        if isinstance(picture, Told):
            return TOLD
        if case.what in LAZY:
            expect(near(np.asarray(picture), _whole(LAZY[case.what][1])), "other pixels")
        return RIGHT

    sift("states of PIL pictures", STATE_CASES, judge)


def _whole(name: str) -> np.ndarray:
    return rgb_of(Image.open(io.BytesIO(FILES[name])))


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo.png")
    return folder / "fifo.png"


def _socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(folder / "s"))
    return folder / "s"


def _loop(folder: Path) -> Path:
    (folder / "loop.png").symlink_to(folder / "loop.png")
    return folder / "loop.png"


def _endless(folder: Path) -> Path:
    """A file that is larger than any memory, and takes no room."""
    with (folder / "endless.png").open("wb") as file:
        file.truncate(1 << 40)
    return folder / "endless.png"


PLACES: dict[str, Make] = {
    "a fifo": _fifo,
    "a socket": _socket,
    "a loop of links": _loop,
    "a file of a terabyte": _endless,
    "/dev/zero": lambda folder: Path("/dev/zero"),
    "/dev/null": lambda folder: Path("/dev/null"),
    "/dev/stdin": lambda folder: Path("/dev/stdin"),
    "/proc/self/mem": lambda folder: Path("/proc/self/mem"),
    "/proc/kmsg": lambda folder: Path("/proc/kmsg"),
    "a folder": lambda folder: folder,
    "no file": lambda folder: folder / "none.png",
    "below a file": lambda folder: Path("/etc/hostname/a.png"),
    "a name of 300 letters": lambda folder: folder / ("x" * 300 + ".png"),
    "a path of 9,000 letters": lambda folder: Path("/".join(["x" * 90] * 100)),
    "nul in a name": lambda folder: Path("a\0b.png"),
    "an escaped byte in a name": lambda folder: folder / "caf\udce9.png",
    "a lone surrogate in a name": lambda folder: folder / "\ud800.png",
    "no name": lambda folder: Path(""),
    "a data URI": lambda folder: Path("data:image/png;base64,iVBORw0KGgo="),
    "a long data URI": lambda folder: Path("data:image/png;base64," + "iVBORw0KGgo" * 100_000),
    "an address": lambda folder: Path("https://example.org/a.png"),
    "a file address": lambda folder: Path("file:///etc/passwd"),
    "a bucket": lambda folder: Path("s3://bucket/a.png"),
    "no bytes": lambda folder: b"",
    "bytes of text": lambda folder: b"a red car",
    "an svg": lambda folder: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "postscript": lambda folder: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "a zip": lambda folder: b"PK\3\4" + bytes(40),
    "ppm": lambda folder: b"P6 1 1 255\n\xff\0\0",
    "a bmp of 2 GiB": lambda folder: FILES["bmp"][:18] + (30_000).to_bytes(4, "little") * 2 + FILES["bmp"][26:],
    "a gif of 65,535": lambda folder: FILES["gif"][:6] + b"\xff\xff\xff\xff" + FILES["gif"][10:],
}
PLACE_CASES = [Case(f"in a picture's place, {name}", name) for name in PLACES]


@pytest.mark.slow
def test_what_is_no_picture_is_told(tmp_path: Path, embedder: MLLMEmbedder) -> None:
    def judge(case: Case) -> str:
        place = PLACES[case.what](tmp_path)
        lost: dict[int, str] = {}
        found = attempt(lambda: embedder.encode([place, "a word"], unreadable=lost, show_progress=False))
        expect(not isinstance(found, Told), f"a bad picture ends the whole call: {found}")
        expect(0 in lost and not found[0].any(), "a vector of no picture")
        expect(isinstance(attempt(lambda: embedder.encode([place], show_progress=False)), Told), "no error")
        expect(len(lost[0].splitlines()) == 1, f"no sentence: {lost[0]}")
        return TOLD

    sift("what is no picture", PLACE_CASES, judge)


CASES = [*MODE_CASES, *STATE_CASES, *PLACE_CASES]
