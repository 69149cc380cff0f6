"""How much is measured: for a large GPU, and so little that a CPU runs all of it in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """The numbers of a run.

    Args:
        product: side of the square matrices whose product gives the peak rate.
        layers: by part of a config ("text_config", "vision_config") what is other than published; nothing for the
            published models.
        pictures, shape: how many, and the width and height of each.
        queries: that ask about these pictures.
        batch_sizes: as of `encode`.
        pixels: the most that a model sees of a picture.
        rows: of a training step: without caching and with it, then with `chunk_tokens: auto`.
        chunk_tokens: of the step with caching.
        gallery: queries, rows, dimensions and answers of the ranking.
        photographs, photograph: how many, and the width and height of each.
        repeat: how often a short thing is timed.
    """

    product: int
    layers: dict[str, dict[str, Any]]
    pictures: int
    shape: tuple[int, int]
    queries: int
    batch_sizes: tuple[int, ...]
    pixels: int
    rows: tuple[int, int]
    chunk_tokens: int
    gallery: tuple[int, int, int, int]
    photographs: int
    photograph: tuple[int, int]
    repeat: int = 2


_FEW_TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1024,
}  # fmt: skip
_TINY = {
    "qwen2_vl": {
        "text_config": {
            **_FEW_TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
        },
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2},
    },
    "qwen3_vl": {
        "text_config": {
            **_FEW_TEXT, "head_dim": 16, "rope_parameters": {
                "rope_type": "default", "rope_theta": 5e6, "mrope_section": [2, 3, 3], "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
        },
    },
}  # fmt: skip
SIZES = {
    # CIRR asks 1.8 instructions of a picture; CIRCO's test set has 800 queries among 123,403 pictures
    "large": Size(
        product=8192, layers={}, pictures=128, shape=(640, 480), queries=230, batch_sizes=(32, 128), pixels=1003520,
        rows=(32, 96), chunk_tokens=8192, gallery=(800, 123403, 2048, 50), photographs=32, photograph=(4000, 3000),
    ),
    "tiny": Size(
        product=128, layers=_TINY, pictures=4, shape=(96, 64), queries=6, batch_sizes=(2,), pixels=100 * 28 * 28,
        rows=(4, 6), chunk_tokens=64, gallery=(5, 300, 16, 10), photographs=2, photograph=(640, 600), repeat=1,
    ),
}  # fmt: skip
