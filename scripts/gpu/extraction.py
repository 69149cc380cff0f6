"""Inputs to vectors: how near the model comes to the device's peak, and what reading pictures leaves of that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mllm_embed import MLLMEmbedder
from mllm_embed.encode.execution import forward
from mllm_embed.encode.prefetch import Batch, prefetch
from mllm_embed.types import Item

from .measuring import Row, operations, seconds, tera
from .workplace import Workplace

GOAL = 0.5  # of the peak


def qwen2_vl(place: Workplace) -> Iterator[Row]:
    """Measure the model of 2 billion weights that most published embedders are made of."""
    yield from _extraction(place, "qwen2_vl")


def qwen3_vl(place: Workplace) -> Iterator[Row]:
    """Measure its successor."""
    yield from _extraction(place, "qwen3_vl")


def prepared(embedder: MLLMEmbedder, items: Sequence[Item], batch_size: int) -> list[Batch]:
    """Return the model input of all steps of a plan, made before any is computed."""
    return list(prefetch(embedder.plan(items, batch_size=batch_size), embedder.item_processor))


def compute(embedder: MLLMEmbedder, batches: Sequence[Batch]) -> None:
    """Compute batches whose input is made."""
    for batch in batches:
        if batch.model_input is not None:
            forward(embedder.model, batch.model_input)


def _extraction(place: Workplace, kind: str) -> Iterator[Row]:
    folder_seconds = seconds(lambda: place.model(kind), place.device)
    embedder = place.embedder(kind)
    weights = sum(parameter.numel() for parameter in embedder.model.parameters())
    about = f"{weights / 1e9:.2f} billion weights" if weights > 1e8 else f"{weights:,} weights"
    yield Row(
        f"{kind}: random weights", f"{folder_seconds:.1f} s", about, {"seconds": folder_seconds, "weights": weights}
    )
    for number, batch_size in enumerate(place.size.batch_sizes):
        yield from _one(place, kind, embedder, batch_size, whole=not number)


def _one(place: Workplace, kind: str, embedder: MLLMEmbedder, batch_size: int, whole: bool) -> Iterator[Row]:
    """Measure one batch size: the model alone, and where `whole` with all that comes before it."""
    work = embedder.plan(place.items, batch_size=batch_size)
    batches = prepared(embedder, place.items, batch_size)
    compute(embedder, batches)  # kernels are chosen, memory is taken
    flops = operations(lambda: compute(embedder, batches))
    alone = seconds(lambda: compute(embedder, batches), place.device, place.size.repeat)
    share = flops / alone / place.peak
    useful = work.planned.tokens / max(work.planned.computed, 1)
    named = f"{kind}, batch_size {batch_size}"
    yield Row(
        f"{named}: the model alone",
        f"{share:.0%} of the peak ({tera(flops / alone)})",
        f"{len(place.items) / alone:,.1f} inputs/s; {useful:.1%} of the tokens are no padding; goal {GOAL:.0%}",
        {"seconds": alone, "operations": flops, "share of peak": share, "inputs": len(place.items), "useful": useful},
    )
    if not whole:
        return
    spent = seconds(lambda: embedder.encode(place.items, batch_size=batch_size, show_progress=False), place.device)
    yield Row(
        f"{named}: from JPEG files",
        f"{len(place.items) / spent:,.1f} inputs/s",
        f"{flops / spent / place.peak:.0%} of the peak; {1 - alone / spent:.0%} of the time is not the model's",
        {"seconds": spent, "share of peak": flops / spent / place.peak},
    )
