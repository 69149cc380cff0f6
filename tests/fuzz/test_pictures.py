"""Damaged pictures give their pixels, or a sentence."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fuzz.tools.damages import CUTS, DAMAGES, damaged
from fuzz.tools.harness import RIGHT, TOLD, Case, Told, attempt, expect, sift
from fuzz.tools.pictures import SIZE, made, near, pixels_of, png_chunks, png_of
from mllm_embed import MLLMEmbedder
from mllm_embed.inputs.images import content_key, glance, load_image

FILES = made()
_SEEDS = {"a bit": 10, "cut": 4, "zeros": 2, "noise": 2}
_CHECKED = ("png",)  # formats with checksums: what is not what was written can be told


def _byte_cases() -> Iterator[Case]:
    for name in FILES:
        for damage in DAMAGES:
            for seed in range(_SEEDS.get(damage, 1)):
                yield Case(f"{name}, {damage} ({seed})", (name, damage, seed))


BYTE_CASES = list(_byte_cases())


@pytest.mark.slow
def test_damaged_files(embedder: MLLMEmbedder) -> None:
    whole = {name: pixels_of(data) for name, data in FILES.items()}

    def judge(case: Case) -> str:
        name, damage, seed = case.what
        data = damaged(FILES[name], damage, seed)
        picture = attempt(lambda: load_image(data))
        if seed == 0:
            _same_through_the_front_door(embedder, data, picture)
        attempt(lambda: (glance(data), content_key(data)))
        if isinstance(picture, Told):
            return TOLD
        pixels = np.asarray(picture)
        if not near(pixels, whole[name]):
            expect(name.split()[0] not in _CHECKED, "other pixels, though a checksum is wrong")
            expect(damage not in CUTS, "other pixels of a file that ends too soon")
            expect(near(pixels, pixels_of(data)), "other pixels than PIL's")
        return RIGHT

    sift("pictures", BYTE_CASES, judge)


def _same_through_the_front_door(embedder: MLLMEmbedder, data: bytes, picture: Any) -> None:
    lost: dict[int, str] = {}
    found = attempt(lambda: embedder.encode([data, "a word"], unreadable=lost, show_progress=False))
    expect(not isinstance(found, Told), "a bad picture ends the whole call")
    expect((0 in lost) == isinstance(picture, Told), f"the embedder says {lost}, the reader {picture}")
    if not lost:
        right = embedder.encode([Image.fromarray(np.asarray(picture))], show_progress=False)
        expect(float((found[:1] * right).sum()) > 0.9999, "another vector than that of the pixels")


def _lies() -> dict[str, Callable[[bytes], bytes]]:
    """Return edits of a PNG file whose checksums are right, by what they claim."""

    def header(at: int, form: str, value: int) -> Callable[[bytes], bytes]:
        def edit(data: bytes) -> bytes:
            chunks = png_chunks(data)
            content = bytearray(chunks[0][1])
            struct.pack_into(form, content, at, value)
            return png_of([(chunks[0][0], bytes(content)), *chunks[1:]])

        return edit

    def chunks(change: Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]]) -> Callable[[bytes], bytes]:
        return lambda data: png_of(change(png_chunks(data)))

    text = (b"tEXt", b"Comment\0" + b"x" * 100)
    lies: dict[str, Callable[[bytes], bytes]] = {
        **{f"width {n}": header(0, ">I", n) for n in (0, 1, SIZE[0] + 1, 7000, 2**31 - 1, 2**32 - 1)},
        **{f"height {n}": header(4, ">I", n) for n in (0, SIZE[1] + 1, 7000, 2**31 - 1, 2**32 - 1)},
        **{f"depth {n}": header(8, ">B", n) for n in (0, 3, 16, 255)},
        **{f"colour type {n}": header(9, ">B", n) for n in (1, 5, 255)},
        **{f"compression {n}": header(10, ">B", n) for n in (1, 255)},
        **{f"filter {n}": header(11, ">B", n) for n in (1, 255)},
        "no data": chunks(lambda found: [part for part in found if part[0] != b"IDAT"]),
        "no end": chunks(lambda found: found[:-1]),
        "half of the data": chunks(lambda found: [(k, c[: len(c) // 2] if k == b"IDAT" else c) for k, c in found]),
        "no header": chunks(lambda found: found[1:]),
        "two headers": chunks(lambda found: [found[0], *found]),
        "a comment": chunks(lambda found: [found[0], text, *found[1:]]),
        "a comment of a bomb": chunks(lambda found: [found[0], _bomb(), *found[1:]]),
        "an unknown chunk": chunks(lambda found: [found[0], (b"abCd", b"x" * 9), *found[1:]]),
        "exif of noise": chunks(lambda found: [found[0], (b"eXIf", random.Random(0).randbytes(80)), *found[1:]]),
        "exif cut": chunks(lambda found: [found[0], (b"eXIf", b"MM\0*\0\0\0\x08\0\x05"), *found[1:]]),
        "colour profile of noise": chunks(lambda found: [found[0], (b"iCCP", b"a\0\0noise"), *found[1:]]),
        "transparency too short": chunks(lambda found: [found[0], (b"tRNS", b"\0"), *found[1:]]),
        "gamma of nothing": chunks(lambda found: [found[0], (b"gAMA", b""), *found[1:]]),
        "a frame that is none": chunks(lambda found: [found[0], (b"acTL", b"\0\0\0\x09\0\0\0\0"), *found[1:]]),
    }
    return lies


def _bomb() -> tuple[bytes, bytes]:
    return b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 50_000_000)


LIES = _lies()
LIE_CASES = [Case(f"png, {name}", name) for name in LIES]


@pytest.mark.slow
def test_lies_with_right_checksums() -> None:
    whole = pixels_of(FILES["png"])

    def judge(case: Case) -> str:
        picture = attempt(lambda: load_image(LIES[case.what](FILES["png"])))
        if isinstance(picture, Told):
            return TOLD
        # what has the pixels of another size, or none, cannot give these; what is beside them may not change them
        expect(near(np.asarray(picture), whole), f"a picture of {picture.size}")
        return RIGHT

    sift("pictures that lie", LIE_CASES, judge)


EXIF_CASES = [
    Case(f"{name}, {count} bytes of EXIF ({seed})", (name, count, seed))
    for name in ("jpeg exif", "png exif", "webp exif")
    for count in (1, 8)
    for seed in range(25)
]


@pytest.mark.slow
def test_damaged_exif(embedder: MLLMEmbedder) -> None:
    """The pixels are there in any case: they stand as some orientation has them."""
    upright = {name: pixels_of(FILES[name]) for name in ("jpeg exif", "png exif", "webp exif")}

    def judge(case: Case) -> str:
        name, count, seed = case.what
        data = _with_odd_exif(FILES[name], count, random.Random(seed))
        picture = attempt(lambda: load_image(data))
        if seed % 5 == 0:
            _same_through_the_front_door(embedder, data, picture)
        if isinstance(picture, Told):
            return TOLD
        turned = [np.rot90(upright[name], turns) for turns in range(4)]
        turned += [np.fliplr(pixels) for pixels in turned]
        expect(any(near(np.asarray(picture), pixels) for pixels in turned), "other pixels")
        return RIGHT

    sift("pictures with damaged EXIF", EXIF_CASES, judge)


def _with_odd_exif(data: bytes, count: int, rng: random.Random) -> bytes:
    if data[1:4] == b"PNG":
        found = png_chunks(data)
        return png_of([(kind, _odd(content, count, rng) if kind == b"eXIf" else content) for kind, content in found])
    start = data.index(b"Exif\0\0") + 6 if b"Exif\0\0" in data else data.index(b"EXIF") + 8
    return data[:start] + _odd(data[start : start + 90], count, rng) + data[start + 90 :]


def _odd(content: bytes, count: int, rng: random.Random) -> bytes:
    out = bytearray(content)
    for _ in range(count):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


CASES = [*BYTE_CASES, *LIE_CASES, *EXIF_CASES]
