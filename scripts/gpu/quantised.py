"""nf4 and int8 beside the checkpoint's bfloat16: memory, time, what they do to vectors, and a step of LoRA on them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from mllm_embed.errors import MLLMEmbedError, first_line

from .extraction import compute, prepared
from .measuring import Row, peak_bytes, seconds
from .training_step import Step
from .workplace import Workplace

MODES = (None, "int8", "nf4")


def quantised(place: Workplace) -> Iterator[Row]:
    """Measure Qwen2-VL in each; one that cannot be had is a sentence, and the others go on."""
    some = place.items[:: max(1, len(place.items) // 128)]
    few = place.size.rows[0]
    whole: np.ndarray | None = None
    for mode in MODES:
        named = f"qwen2_vl in {mode or place.dtype}"
        try:
            with peak_bytes(place.device) as taken:
                embedder = place.embedder("qwen2_vl", quantization=mode)
        except (MLLMEmbedError, ImportError) as error:
            yield Row(named, "–", first_line(error))
            continue
        vectors = embedder.encode(some, show_progress=False)
        whole = vectors if whole is None else whole
        batches = prepared(embedder, some, place.size.batch_sizes[0])
        spent = seconds(lambda e=embedder, b=batches: compute(e, b), place.device, place.size.repeat)
        nearest = float((vectors * whole).sum(1).min())
        step = Step(place, embedder)
        batch = step.batch(few, place.size.chunk_tokens)
        step(batch, few)
        step_seconds = seconds(lambda s=step, b=batch: s(b, few), place.device)
        yield Row(
            named,
            f"{len(some) / spent:,.1f} inputs/s, {step_seconds:.2f} s a step",
            f"{taken.bytes / 2**30:.2f} GiB to load; least cosine to {place.dtype} {nearest:.4f}, of random weights; "
            f"the step has {few} rows, cached",
            {"inputs": len(some), "seconds": spent, "step": step_seconds, "bytes": taken.bytes, "cosine": nearest},
        )
        del embedder, step, batches, batch
        if place.device.type == "cuda":
            torch.cuda.empty_cache()
