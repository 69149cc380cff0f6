"""What decoding photographs takes of embedding them, whole and at a part of their size (`jpeg_side`)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from mllm_embed import Document
from mllm_embed.encode.prefetch import THREADS
from mllm_embed.inputs.images import load_image

from .extraction import compute, prepared
from .measuring import Row, seconds
from .photographs import photographs
from .workplace import Workplace

_DIFFERENT = 4  # files that are made: each takes a second


def decoding(place: Workplace) -> Iterator[Row]:
    """Measure photographs in Qwen2-VL."""
    # a side from which pictures are made smaller for the model all the same
    side = math.isqrt(place.size.pixels)
    files = photographs(min(place.size.photographs, _DIFFERENT), *place.size.photograph)
    yield _decoded(files, None)
    yield _decoded(files, side)
    # a file is seen once however often it stands in a list: the copies differ in a byte after the picture's end
    copies = [files[at % len(files)] + bytes([at // len(files)]) for at in range(place.size.photographs)]
    items = list(map(Document, copies))
    whole, row = _embedded(place, items, 0)
    yield row
    scaled, row = _embedded(place, items, side)
    cosines = (whole * scaled).sum(1)
    row.note += f"; cosine to those of whole ones {cosines.min():.4f} at least, of random weights"
    row.values["cosine"] = float(cosines.min())
    yield row


def _embedded(place: Workplace, items: list[Document], side: int) -> tuple[np.ndarray, Row]:
    """Return the vectors of photographs, and what they take beside the model's own time."""
    embedder, size = place.embedder("qwen2_vl", jpeg_side=side), place.size.batch_sizes[0]
    batches = prepared(embedder, items, size)
    compute(embedder, batches)
    alone = seconds(lambda: compute(embedder, batches), place.device, place.size.repeat)
    found: list[np.ndarray] = []
    spent = seconds(lambda: found.append(embedder.encode(items, batch_size=size, show_progress=False)), place.device)
    width, height = place.size.photograph
    values = {"seconds": spent, "model": alone, "photographs": len(items), "jpeg_side": side}
    row = Row(
        f"photographs of {width} x {height} in qwen2_vl, {f'jpeg_side {side}' if side else 'decoded whole'}",
        f"{len(items) / spent:,.1f} /s",
        f"{1 - alone / spent:.0%} of the time is not the model's",
        values,
    )
    return found[0], row


def _decoded(files: list[bytes], side: int | None) -> Row:
    """Return how long one thread takes to decode a file."""
    spent = seconds(lambda: [load_image(file, jpeg_side=side) for file in files], torch.device("cpu")) / len(files)
    picture = load_image(files[0], jpeg_side=side)
    mean = sum(map(len, files)) / len(files)
    return Row(
        f"decode one of {mean / 1e6:.1f} MB, {f'jpeg_side {side}' if side else 'whole'}",
        f"{1e3 * spent:.1f} ms",
        f"{picture.width} x {picture.height} pixels, one thread of {THREADS} that decode",
        {"seconds": spent, "bytes": mean},
    )
