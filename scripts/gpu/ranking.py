"""CIRCO's test set ranked: exactly, as every figure of this library is, and by a plain product on the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from mllm_embed.vectors.ranking import top_k

from .measuring import Row, seconds, tera
from .workplace import Workplace


def ranking(place: Workplace) -> Iterator[Row]:
    """Measure the library's exact ranking, on the CPU, and the device's products in float32 and bfloat16."""
    count, rows, width, k = place.size.gallery
    rng = np.random.default_rng(0)
    queries, gallery = (_unit(rng, number, width) for number in (count, rows))
    found: list[np.ndarray] = []
    exact = seconds(lambda: found.append(top_k(queries, gallery, k)[1]), torch.device("cpu"))
    shape = f"{count:,} x {rows:,} at {width:,} dimensions, {k} answers"
    yield Row("exact ranking on the CPU", f"{exact:.2f} s", shape, {"seconds": exact})
    for dtype in (torch.float32, torch.bfloat16):
        yield _on_device(place, queries, gallery, k, dtype, found[0])


def _on_device(
    place: Workplace, queries: np.ndarray, gallery: np.ndarray, k: int, dtype: torch.dtype, exact: np.ndarray
) -> Row:
    """Return how long the device takes, the transfers apart, and how many queries get the exact answers in order."""
    held: dict[str, torch.Tensor] = {}

    def place_there() -> None:
        for name, vectors in (("queries", queries), ("gallery", gallery)):
            held[name] = torch.from_numpy(vectors).to(place.device).to(dtype)

    def rank() -> None:
        scores = held["queries"] @ held["gallery"].T
        held["best"] = scores.topk(k, dim=1).indices

    moved = seconds(place_there, place.device)
    rank()
    spent = seconds(rank, place.device, place.size.repeat)
    best = held["best"].cpu().numpy()
    same = float((best == exact).all(axis=1).mean())
    kept = float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(best, exact, strict=True)]) / k)
    name = str(dtype).removeprefix("torch.")
    return Row(
        f"product and top k on {place.device.type}, {name}",
        f"{1e3 * spent:.1f} ms",
        f"{tera(2 * len(queries) * gallery.size / spent)}; gallery there in {moved:.2f} s; {same:.1%} of the queries "
        f"have the exact answers in their order, {kept:.2%} of the answers are the same",
        {"seconds": spent, "transfer": moved, "queries in order": same, "answers": kept},
    )


def _unit(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    vectors = rng.standard_normal((count, width), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
