"""The vision tower once a picture, where rows of a batch show the same one and cannot share a prefix that holds it.

That is so where tokens see what comes after them (PaliGemma, bidirectional attention), and where prompts differ before
the picture. transformers takes features that were made before as `mm_encoder_outputs`.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

PIXELS, GRID = "pixel_values", "image_grid_thw"


def reuse_features(base: nn.Module, inputs: dict[str, Tensor], first: Tensor) -> dict[str, Any]:
    """Return model input with the features of its pictures in the place of their pixels.

    Args:
        base: the model, of a family with `reuses_features`.
        inputs: model input of B rows.
        first: [B] int64: for each row, the first one that shows the same picture.

    Rows that show several pictures, or pictures cut into tiles, are given back as they are.
    """
    rows, picture = first.unique(return_inverse=True)
    get_features: Any = base.get_image_features
    takes = signature(get_features).parameters
    chosen = _of_rows({name: tensor for name, tensor in inputs.items() if name in takes}, rows, len(first))
    if chosen is None:
        return inputs
    features = get_features(**chosen, return_dict=True)
    pooled = features.pooler_output
    # more or fewer features than pictures were looked at: which are whose cannot be told
    if len(pooled) != len(rows):
        return inputs
    # a list where pictures differ in size, each with as many features as it has tokens
    features.pooler_output = pooled[picture] if isinstance(pooled, Tensor) else [pooled[at] for at in picture.tolist()]
    given = {**inputs, "mm_encoder_outputs": {"image": features}}
    del given[PIXELS]
    return given


def _of_rows(inputs: dict[str, Tensor], rows: Tensor, count: int) -> dict[str, Tensor] | None:
    """Return the vision tower's input for some of `count` rows; None where it cannot be told which are theirs."""
    if GRID in inputs:  # the patches of all pictures lie one after the other
        if len(inputs[GRID]) != count:
            return None
        patches = inputs[PIXELS].split(inputs[GRID].prod(1).tolist())
        return {PIXELS: torch.cat([patches[row] for row in rows.tolist()]), GRID: inputs[GRID][rows]}
    if any(len(tensor) != count for tensor in inputs.values()):
        return None
    return {name: tensor[rows] for name, tensor in inputs.items()}
