"""The vision tower once a picture, where rows of a batch show the same one and cannot share what begins with it.

That is so where tokens see what comes after them (PaliGemma, bidirectional attention), and where prompts differ before
the picture. transformers takes features that were made before as `mm_encoder_outputs`.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

PIXELS, GRID = "pixel_values", "image_grid_thw"


def seen_once(base: nn.Module, inputs: dict[str, Tensor], first: Tensor) -> dict[str, Any]:
    """Model input with the features of its pictures in the place of their pixels.

    Args:
        base: the model, of a family with `sees_once`.
        inputs: model input of B rows.
        first: [B] int64: for each row, the first one that shows the same picture.

    Rows that show several pictures, or pictures cut into tiles, are given back as they are.
    """
    rows, place = first.unique(return_inverse=True)
    takes = signature(base.get_image_features).parameters
    given = {name: tensor for name, tensor in inputs.items() if name in takes}
    chosen = _chosen(given, rows, len(first))
    if chosen is None:
        return inputs
    features = base.get_image_features(**chosen, return_dict=True)
    pooled = features.pooler_output
    if len(pooled) != len(rows):
        return inputs
    features.pooler_output = pooled[place] if isinstance(pooled, Tensor) else [pooled[at] for at in place.tolist()]
    return {name: tensor for name, tensor in inputs.items() if name != PIXELS} | {
        "mm_encoder_outputs": {"image": features}
    }


def _chosen(given: dict[str, Tensor], rows: Tensor, count: int) -> dict[str, Tensor] | None:
    """What the tower is given of some rows; None where that cannot be told."""
    if GRID in given:  # the patches of all pictures lie one after the other
        if len(given[GRID]) != count:
            return None
        patches = given[PIXELS].split(given[GRID].prod(1).tolist())
        return {PIXELS: torch.cat([patches[row] for row in rows.tolist()]), GRID: given[GRID][rows]}
    if any(len(tensor) != count for tensor in given.values()):
        return None
    return {name: tensor[rows] for name, tensor in given.items()}
