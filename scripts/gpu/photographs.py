"""Made-up photographs as JPEG files: light that changes slowly, things with edges, and a sensor's grain."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

QUALITY = 90
_GRAIN = 1024  # pixels, after which the grain repeats itself


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a picture that has something to see at every scale, as photographs do."""
    rng = np.random.default_rng(seed)
    light = Image.fromarray(rng.integers(30, 226, (4, 6, 3), dtype=np.uint8))
    picture = light.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(60):  # things, from a hundredth of the picture to a third
        side = np.exp(rng.uniform(np.log(0.01), np.log(0.33))) * np.array([width, height])
        left, top = rng.uniform(-0.1, 1, 2) * np.array([width, height])
        box = [left, top, left + side[0], top + side[1]]
        colour = tuple(map(int, rng.integers(0, 256, 3)))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=colour)
    for _ in range(40):  # hair, wires, letters: a pixel or a few wide
        ends = [tuple(rng.uniform(0, 1, 2) * np.array([width, height])) for _ in range(2)]
        draw.line(ends, fill=tuple(map(int, rng.integers(0, 256, 3))), width=int(rng.integers(1, max(2, width // 400))))
    picture = picture.filter(ImageFilter.GaussianBlur(width / 4000))  # a lens
    tile = rng.normal(0, 6, (_GRAIN, _GRAIN, 1)).round().astype(np.int16)
    grain = np.tile(tile, (height // _GRAIN + 1, width // _GRAIN + 1, 1))[:height, :width]
    return Image.fromarray((np.asarray(picture, np.int16) + grain).clip(0, 255).astype(np.uint8))


def photographs(count: int, width: int, height: int) -> list[bytes]:
    """Return so many JPEG files, each another."""
    return [as_jpeg(photograph(width, height, seed)) for seed in range(count)]


def as_jpeg(picture: Image.Image) -> bytes:
    """Return the bytes of a file of quality QUALITY."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
