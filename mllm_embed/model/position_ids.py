"""The positions of tokens where a model cannot work them out by itself: in packed rows, behind a cached prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError

Positions = Literal["model", "sequential"]
POSITIONS: tuple[Positions, ...] = ("model", "sequential")


def position_ids(
    base: nn.Module, batch: dict[str, Tensor], rope_index: str | None = None, positions: Positions = "model"
) -> Tensor:
    """Return the positions of a padded batch: [B, L] int64, 0 where it is padded at the front.

    Families with M-RoPE get [4, B, L]: the plain ones, and the three axes that their own method gives.

    Args:
        base: the model, without an adapter's wrapper.
        batch: model input with input_ids and attention_mask [B, L].
        rope_index: as in `Family`: the name of the base's method for M-RoPE, None without it.
        positions: "sequential" numbers a picture's tokens as words are, on all three axes.
    """
    plain = (batch["attention_mask"].long().cumsum(1) - 1).clamp(min=0)
    if rope_index is None:
        return plain
    spatial = plain.expand(3, -1, -1)  # of texts, whose axes are alike
    if "image_grid_thw" in batch and positions == "model":
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
        spatial, _ = getattr(base, rope_index)(**{name: batch[name] for name in names if name in batch})
    return torch.cat([plain[None], spatial])


def check_apart(batch: Mapping[str, Tensor]) -> None:
    """Raise ConfigError for pictures with no token between them where a model numbers their tokens by where each
    begins: it takes them for one.

    Args:
        batch: model input; of families whose processor tells the kinds of tokens, with mm_token_type_ids [B, L].
    """
    if not {"mm_token_type_ids", "image_grid_thw"} <= batch.keys():
        return
    shown = F.pad(batch["mm_token_type_ids"] == 1, (1, 0))
    if int((shown[:, 1:] & ~shown[:, :-1]).sum()) < len(batch["image_grid_thw"]):
        raise ConfigError(
            "these prompts put pictures next to each other with nothing between them, and this model, which numbers "
            "tokens by where a picture begins, takes them for one; give the prompts a `picture` with the marks of its "
            'beginning and end, or positions="sequential" if it was trained so'
        )


def following(before: Tensor, attention_mask: Tensor, count: int) -> Tensor:
    """Return the positions of `count` text tokens behind each row of a batch, [(4,) B, count] like `position_ids`.

    Args:
        before: what `position_ids` gives for the batch.
        attention_mask: [B, L] of the batch.
    """
    last = before.masked_fill(attention_mask == 0, -1).amax(-1, keepdim=True)
    if before.ndim == 3:  # text goes on from the furthest of the three axes, in all of them
        last[1:] = last[1:].amax(0)
    return last + 1 + torch.arange(count, device=before.device)
