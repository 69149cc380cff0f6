"""Several inputs in one row of tokens, each seeing itself alone: no padding is computed.

Measured on a CPU with 32 texts of 6 to 80 tokens: rows of about 256 tokens are 2.1 to 2.4 times as fast as padded
batches in random order, and 1.1 to 1.2 times as fast as batches sorted by length; long rows pay for their square.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .position_ids import Positions, position_ids

ROW = 256


def pack(
    batch: dict[str, Any], base: nn.Module, rope_index: str | None = None, positions: Positions = "model"
) -> tuple[dict[str, Any], Tensor]:
    """Lay a padded batch in rows of about ROW tokens, in the same order, so that pixels need no reordering.

    Rows start each input at position 0. transformers (masking_utils.find_packed_sequence_indices) then lets no token
    look into another input, provided that there is no attention mask and no cache. M-RoPE families get the positions
    that their own method gives the padded batch, with the plain ones in front of them.

    Args:
        batch: model input with input_ids and attention_mask [B, L]; what else is [B, L] is packed too, and features of
            pictures stay as they are.
        base: the model, without an adapter's wrapper.
        rope_index, positions: as in `position_ids`.

    Returns: the packed input, and for each real token, row by row of the batch, its place in the flattened rows
    [tokens] int64.
    """
    mask = batch["attention_mask"].bool()
    lengths = mask.sum(1).tolist()
    starts, shape = _rows(lengths)
    places = torch.cat([start + torch.arange(n) for start, n in zip(starts, lengths, strict=True)]).to(mask.device)

    def laid_out(tokens: Tensor, fill: int) -> Tensor:
        flat = tokens.new_full((shape[0] * shape[1],), fill)
        flat[places] = tokens
        return flat.view(shape)

    packed = {
        name: laid_out(value[mask], 0) if isinstance(value, Tensor) and value.shape == mask.shape else value
        for name, value in batch.items()
    }
    del packed["attention_mask"]
    # a filler's position is 0, which sets it apart from the token before it
    found = position_ids(base, batch, rope_index, positions)
    axes = [laid_out(axis[mask], 0) for axis in found.view(-1, *mask.shape)]
    packed["position_ids"] = axes[0] if found.ndim == 2 else torch.stack(axes)
    return packed, places


def unpack(hidden: Tensor, places: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the hidden states [B, L, H] of the padded batch, zero where it is padded, from [R, W, H] of packed rows.

    Args:
        hidden: what the model gives for the rows of `pack`.
        places: [tokens] int64, as `pack` returns it.
        attention_mask: [B, L] of the padded batch.
    """
    out = hidden.new_zeros(*attention_mask.shape, hidden.shape[-1])
    out[attention_mask.bool()] = hidden.flatten(0, 1)[places]
    return out


def _rows(lengths: list[int]) -> tuple[list[int], tuple[int, int]]:
    """Return where each input starts in the flattened rows, and their shape: filled in order, up to ROW tokens each."""
    rows: list[list[int]] = [[]]
    for length in lengths:
        if rows[-1] and sum(rows[-1]) + length > ROW:
            rows.append([])
        rows[-1].append(length)
    width = max(map(sum, rows))
    starts = [number * width + sum(row[:at]) for number, row in enumerate(rows) for at in range(len(row))]
    return starts, (len(rows), width)
