"""Pictures on their way to a vector: none escapes the reader, none is mistaken for another."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from mllm_embed import MLLMEmbedder, Query


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _wide(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (4, 4)).astype(np.uint8)
    grey = Image.fromarray(small).resize((32, 32), Image.Resampling.NEAREST)
    return Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)


def test_pictures_of_16_bits_have_the_vectors_of_8(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    wide = [_wide(seed) for seed in range(10)]
    narrow = [Image.fromarray((np.asarray(picture) // 257).astype(np.uint8)) for picture in wide]
    files = [tmp_path / f"{number}.tif" for number in range(10)]
    for picture, file in zip(wide, files, strict=True):
        picture.save(file)
    expected = embedder.encode(narrow)
    assert len(np.unique(expected, axis=0)) == 10
    for inputs in (wide, files, [_png(picture) for picture in wide]):
        np.testing.assert_allclose(embedder.encode(inputs), expected, atol=1e-5, rtol=0)


def _unreadable(folder: Path) -> list[object]:
    whole = _png(_wide(0))
    damaged = bytearray(whole)
    damaged[-20] ^= 1
    (folder / "a.png").write_bytes(whole)
    (folder / "damaged.png").write_bytes(damaged)
    os.mkfifo(folder / "pipe.png")
    with (folder / "a.png").open("rb") as file:
        closed = Image.open(file)
    return [
        closed,
        Image.open(io.BytesIO(whole[:-30])),
        Image.new("RGB", (0, 5)),
        Image.new("F", (4, 4), -1.0),
        folder / "damaged.png",
        folder / "pipe.png",
        folder / ("x" * 300),
        Path("a\0b"),
        Path("\ud800"),
        Query("data:image/png;base64,AAAA", "make it red"),
        Query("file:///tmp/a.png"),
        Path("/dev/zero"),
        folder,
        b"",
        bytes(damaged),
        whole[:-30],
    ]


def test_no_picture_stops_the_others(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    bad = _unreadable(tmp_path)
    lost: dict[int, str] = {}
    good = tmp_path / "a.png"
    vectors = embedder.encode([good, *bad, good.read_bytes()], unreadable=lost)
    assert sorted(lost) == list(range(1, len(bad) + 1))
    for reason in lost.values():
        assert "\n" not in reason
        reason.encode()
    assert not vectors[1:-1].any()
    assert (vectors[0] == vectors[-1]).all()
    assert vectors[0].any()


def test_a_damaged_exif_block_does_not_stop_the_run(embedder: MLLMEmbedder) -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker " * 5
    file = io.BytesIO()
    _wide(1).convert("L").save(file, "JPEG", exif=exif)
    whole = file.getvalue()
    at = whole.index(b"Exif\0\0") + 6
    damaged = whole[:at] + b"ZZZZZZZZ" + whole[at + 8 :]
    first, second, third = embedder.encode([whole, damaged, Query(damaged, "make it red")])
    np.testing.assert_allclose(first, second, atol=1e-5, rtol=0)
    assert third.any()
