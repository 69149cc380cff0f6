"""Inputs read before they are encoded, so that one that cannot be read costs the others nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mllm_embed.errors import DataError, ImageError
from mllm_embed.inputs.item_processor import ItemProcessor
from mllm_embed.types import Item

BLOCK = 256  # inputs whose pictures lie in memory at once


class ReadingEncoder(Protocol):
    """What is needed of `MLLMEmbedder` here."""

    dimension: int
    item_processor: ItemProcessor

    def encode(self, inputs: Sequence[Item], *, batch_size: int = 32, show_progress: bool | None = None) -> np.ndarray:
        """[N, D] float32."""
        ...


def encode_readable(
    items: Sequence[Item], encoder: ReadingEncoder, batch_size: int = 32
) -> tuple[np.ndarray, dict[int, str]]:
    """[N, D] float32, 0 for items that cannot be embedded, and by their places why not. All pictures are decoded first:
    give about BLOCK items."""
    read, reasons = {}, {}
    for place, item in enumerate(items):
        try:
            read[place], _ = encoder.item_processor.prepared(item)
        except (DataError, ImageError) as error:
            reasons[place] = str(error)
    vectors = np.zeros((len(items), encoder.dimension), np.float32)
    if read:
        vectors[list(read)] = encoder.encode(list(read.values()), batch_size=batch_size, show_progress=False)
    return vectors, reasons
