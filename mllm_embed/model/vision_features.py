"""Features of pictures that are made before the model is called, which transformers takes as `mm_encoder_outputs`.

Once a picture, where rows of a batch show the same one and cannot share a prefix that holds it: where tokens see what
comes after them (PaliGemma, bidirectional attention), and where prompts differ before the picture. And where a token
learner makes fewer tokens of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .families import Family
from .heads.picture_places import RUNS
from .heads.token_learner import Shape, TokenLearner

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PIXELS, GRID = "pixel_values", "image_grid_thw"
FEATURES = "mm_encoder_outputs"
"""The name under which a model takes features that were made before."""


def reuse_features(base: nn.Module, inputs: dict[str, Tensor], first: Tensor) -> dict[str, Any]:
    """Return model input with the features of its pictures in the place of their pixels.

    Args:
        base: the model, of a family with `reuses_features`.
        inputs: model input of B rows.
        first: [B] int64: for each row, the first one that shows the same picture.

    Rows that show several pictures, or pictures cut into tiles, are given back as they are.
    """
    rows, picture = first.unique(return_inverse=True)
    chosen = _of_rows(_of_tower(base, inputs), rows, len(first))
    if chosen is None:
        return inputs
    features = _features(base, chosen)
    pooled = features.pooler_output
    # more or fewer features than pictures were looked at: which are whose cannot be told
    if len(pooled) != len(rows):
        return inputs
    # a list where pictures differ in size, each with as many features as it has tokens
    features.pooler_output = pooled[picture] if isinstance(pooled, Tensor) else [pooled[at] for at in picture.tolist()]
    return _with_features(inputs, features)


def learn_tokens(
    base: nn.Module, inputs: dict[str, Tensor], learner: TokenLearner, first: Tensor | None = None
) -> dict[str, Any]:
    """Return model input in which pictures have the tokens that a learner makes of theirs; of texts as it is.

    Args:
        base: the model, of a family with `compresses`.
        inputs: model input of B rows, whose pictures have so many places (picture_places.py), with RUNS.
        learner: what makes the tokens.
        first: as of `reuse_features`; None looks at every row's pictures.

    Where the base places pictures by their grids, those of the learned tokens take their place. Raises ModelError where
    the model makes other features than the processor has placeholders for.
    """
    if PIXELS not in inputs:
        return dict(inputs)
    seen, runs, picture = _different(_of_tower(base, inputs), inputs[RUNS], first)
    features = _features(base, seen)
    pooled, lengths = features.pooler_output, runs.tolist()
    learned = learner.of_pictures(_pictures(pooled, lengths), _shapes(base, seen, lengths))[picture]
    features.pooler_output = learned if isinstance(pooled, Tensor) else list(learned)
    given = _with_features(inputs, features)
    del given[RUNS]
    if GRID in inputs:
        given[GRID] = _grid_of(learner, base, inputs[GRID])
    return given


def words_width(base: PreTrainedModel) -> int:
    """Return the length of a word's embedding, and so of a picture's token, in a base model."""
    embeddings: Any = base.get_input_embeddings()
    return embeddings.weight.shape[1]


def check_learner(base: PreTrainedModel, family: Family, learner: TokenLearner) -> None:
    """Raise ModelError for a token learner of another width than a base's, and for a base at which none can stand."""
    kind: Any = base.config.model_type
    if not family.compresses or not takes_features(base):
        raise ModelError(
            f"no token learner can stand in a model of the family '{kind}': its pictures do not enter the language "
            "model as tokens in their place alone; leave token_learner out, or take another base"
        )
    width = words_width(base)
    if learner.spec.width != width:
        raise ModelError(
            f"the token learner takes tokens of {learner.spec.width} numbers, and the model's have {width}: the two do "
            "not belong together; save the model again"
        )


def _different(
    seen: dict[str, Tensor], runs: Tensor, first: Tensor | None
) -> tuple[dict[str, Tensor], Tensor, Tensor | slice]:
    """Return the vision tower's input of the different pictures of a batch, their runs, and which of them each row
    shows; all of them where that cannot be told."""
    if first is not None and len(runs) == len(first):
        rows, picture = first.unique(return_inverse=True)
        chosen = _of_rows(seen, rows, len(first))
        if chosen is not None:
            return chosen, runs[rows], picture
    return seen, runs, slice(None)


def _pictures(pooled: Tensor | Sequence[Tensor], lengths: list[int]) -> Sequence[Tensor]:
    """Return the features of each run of a picture, [N, H]. Raises ModelError where there are others than of runs."""
    parts = [pooled] if isinstance(pooled, Tensor) else pooled
    flat = torch.cat([part.flatten(0, -2) for part in parts])
    if len(flat) != sum(lengths):
        raise ModelError(
            f"the model makes {len(flat)} tokens of pictures for which its processor has {sum(lengths)} placeholders: "
            "the two do not belong together; give the processor's own model"
        )
    return flat.split(lengths)


def takes_features(base: nn.Module) -> bool:
    """Return whether a model takes features that were made before, and makes them."""
    return hasattr(base, "get_image_features") and FEATURES in signature(base.forward).parameters


def _of_tower(base: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    get_features: Any = base.get_image_features
    takes = signature(get_features).parameters
    return {name: tensor for name, tensor in inputs.items() if name in takes}


def _features(base: nn.Module, seen: dict[str, Tensor]) -> Any:
    get_features: Any = base.get_image_features
    return get_features(**seen, return_dict=True)


def _with_features(inputs: dict[str, Tensor], features: Any) -> dict[str, Any]:
    given = {**inputs, FEATURES: {"image": features}}
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


def _merged(base: nn.Module) -> int:
    """Return along how many patches of a side a token reaches."""
    config: Any = base.config
    return config.vision_config.spatial_merge_size


def _shapes(base: nn.Module, seen: dict[str, Tensor], lengths: list[int]) -> list[Shape]:
    """Return the rows and columns in which pictures' tokens lie: as their grids say, else a square, or one row where
    their number is that of none."""
    if GRID not in seen:
        return [(side, side) if (side := math.isqrt(count)) ** 2 == count else (1, count) for count in lengths]
    side = _merged(base)
    return [(high // side, wide // side) for _, high, wide in seen[GRID].tolist()]


def _grid_of(learner: TokenLearner, base: nn.Module, grids: Tensor) -> Tensor:
    """Return the grids of pictures [P, 3] that have the learner's tokens."""
    rows, columns = learner.spec.grid
    return grids.new_tensor([1, rows * _merged(base), columns * _merged(base)]).expand(len(grids), -1)
