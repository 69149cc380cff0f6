"""The device itself: the rate of a plain product, beside which all other rates stand."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mllm_embed.saving.versions import versions

from .measuring import Row, tera
from .workplace import Workplace


def machine(place: Workplace) -> Iterator[Row]:
    """Measure the peak rate of a product of bfloat16 matrices."""
    gpu = torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else "a CPU"
    values = {"rate": place.peak, "versions": versions(), "device": gpu, "threads": torch.get_num_threads()}
    side = place.size.product
    yield Row(
        "bfloat16 product", tera(place.peak), f"{side:,} squared, random numbers, the best of 10 on {gpu}", values
    )
