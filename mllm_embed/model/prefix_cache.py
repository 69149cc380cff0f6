"""Inputs that begin alike, as all do that are asked of one picture: the beginning is computed once, its keys and values
serve every ending.

A picture takes 64 to 2,900 tokens and a question about it 10 to 40, so that this is the greatest saving of composed
retrieval, where a gallery's pictures are queries' references too. It needs attention that never looks ahead, from a
picture's tokens to the words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from .position_ids import following, position_ids


@dataclass(frozen=True)
class Endings:
    """Some endings of like length.

    Args:
        inputs: input_ids and attention_mask [N, S], padded on the right, and what else is given a token.
        owners: [N] int64, the beginning of each.
        rows: [N] int64, which inputs these are.
        content: [N, P + S], 1 for the tokens that mean pooling takes; None where it is not asked for.
    """

    inputs: dict[str, Tensor]
    owners: Tensor
    rows: Tensor
    content: Tensor | None = None


@dataclass(frozen=True)
class SharedBatch:
    """Inputs as G beginnings, which hold the pictures, and endings of words.

    Args:
        beginnings: model input: input_ids and attention_mask [G, P], padded on the left, pixels, ...
        endings: by length; together they are the inputs numbered from 0.
    """

    beginnings: dict[str, Tensor]
    endings: tuple[Endings, ...]

    def to(self, device: torch.device) -> SharedBatch:
        """The same on another device."""
        parts = [
            Endings(
                {name: tensor.to(device) for name, tensor in part.inputs.items()},
                part.owners.to(device),
                part.rows.to(device),
                None if part.content is None else part.content.to(device),
            )
            for part in self.endings
        ]
        return SharedBatch({name: tensor.to(device) for name, tensor in self.beginnings.items()}, tuple(parts))

    def whole(self, name: str, part: Endings) -> Tensor:
        """What a tensor holds of each input, beginning and ending: [N, P + S]."""
        return torch.cat([self.beginnings[name][part.owners], part.inputs[name]], 1)


def hidden_states(backbone: nn.Module, base: nn.Module, batch: SharedBatch) -> Iterator[Tensor]:
    """For each part of the endings the hidden states of its whole inputs, [N, P + S, H], as if computed alone.

    Args:
        backbone: the model, perhaps in an adapter's wrapper.
        base: the model without it.
        batch: what to compute, with floating tensors in the model's dtype.
    """
    mask, kept = batch.beginnings["attention_mask"], DynamicCache()
    before = position_ids(base, batch.beginnings)
    first = _states(backbone, batch.beginnings, before, kept)
    for part in batch.endings:
        after = following(before, mask, part.inputs["input_ids"].shape[1])[..., part.owners, :]
        repeated = DynamicCache()
        repeated.layers = [_Repeated(layer, part.owners) for layer in kept.layers]
        inputs = part.inputs | {"attention_mask": batch.whole("attention_mask", part)}
        yield torch.cat([first[part.owners], _states(backbone, inputs, after, repeated)], 1)


def _states(backbone: nn.Module, inputs: dict[str, Tensor], places: Tensor, cache: DynamicCache) -> Tensor:
    return backbone(**inputs, position_ids=places, cache=cache, use_cache=True).last_hidden_state


class _Repeated(DynamicLayer):
    """One layer's keys and values [G, ...] as those of N inputs. Nothing is added to them, and they are repeated when
    their layer is computed, so that one layer's copies are held at a time."""

    def __init__(self, layer: DynamicLayer, owners: Tensor):
        super().__init__()
        self._keys, self._values, self._owners = layer.keys, layer.values, owners
        self.dtype, self.device, self.is_initialized = layer.keys.dtype, layer.keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)

    def get_seq_length(self) -> int:
        return self._keys.shape[-2]

    @property
    def keys(self) -> Tensor:
        return self._keys[self._owners]

    @keys.setter
    def keys(self, _: object) -> None:
        """transformers' constructor sets None."""

    @property
    def values(self) -> Tensor:
        return self._values[self._owners]

    @values.setter
    def values(self, _: object) -> None:
        """As for keys."""
