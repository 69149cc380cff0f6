"""Inputs that begin alike, as all do that are asked of one picture: the prefix is computed once, and its keys and
values serve every suffix.

A picture takes 64 to 2,900 tokens and a question about it 10 to 40, so that this is the greatest saving of composed
retrieval, where a gallery's pictures are queries' references too. It needs attention that never looks ahead, from a
picture's tokens to the words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from ..errors import ModelError, kind_of
from .position_ids import Positions, following, position_ids


@dataclass(frozen=True)
class SuffixBatch:
    """Suffixes of like length.

    Args:
        inputs: input_ids and attention_mask [N, S], padded on the right, and what else is given a token; with the
            pixels of pictures in them, where there are any.
        owners: [N] int64, the number of each one's prefix.
        rows: [N] int64, which inputs these are.
        content: [N, P + S], 1 for the tokens that mean pooling takes; None where it is not asked for.
    """

    inputs: dict[str, Tensor]
    owners: Tensor
    rows: Tensor
    content: Tensor | None = None

    def with_tensors(self, change: Callable[[Any], Any]) -> SuffixBatch:
        """Return the same with something in the place of each tensor, or a tensor in the place of each such thing."""
        content = None if self.content is None else change(self.content)
        return SuffixBatch(_changed(self.inputs, change), change(self.owners), change(self.rows), content)


@dataclass(frozen=True)
class SharedBatch:
    """Inputs as G prefixes and suffixes: of words, or of words and pictures where the family can have these behind
    what is cached.

    Args:
        prefixes: model input: input_ids and attention_mask [G, P], padded on the left, pixels, ...
        suffixes: by length; together they are the inputs numbered from 0.
    """

    prefixes: dict[str, Tensor]
    suffixes: tuple[SuffixBatch, ...]

    def to(self, device: torch.device) -> SharedBatch:
        """Return the same on another device."""
        return self.with_tensors(lambda tensor: tensor.to(device))

    def with_tensors(self, change: Callable[[Any], Any]) -> SharedBatch:
        """Return the same with something in the place of each tensor, or a tensor in the place of each such thing."""
        return SharedBatch(_changed(self.prefixes, change), tuple(part.with_tensors(change) for part in self.suffixes))

    def computed(self) -> Iterator[dict[str, Tensor]]:
        """Yield the model input of each forward pass that it takes."""
        yield self.prefixes
        yield from (part.inputs for part in self.suffixes)

    def lengths(self) -> Tensor:
        """Return the tokens of each input, no padding: [N] int64."""
        prefixes = self.prefixes["attention_mask"].sum(1)
        lengths = prefixes.new_zeros(sum(len(part.rows) for part in self.suffixes))
        for part in self.suffixes:
            lengths[part.rows] = prefixes[part.owners] + part.inputs["attention_mask"].sum(1)
        return lengths

    def whole(self, name: str, part: SuffixBatch) -> Tensor:
        """Return what a tensor holds of each input of `part`, prefix and suffix: [N, P + S]."""
        return torch.cat([self.prefixes[name][part.owners], part.inputs[name]], 1)


def hidden_states(
    backbone: nn.Module,
    base: nn.Module,
    batch: SharedBatch,
    rope_index: str | None = None,
    positions: Positions = "model",
) -> Iterator[Tensor]:
    """Yield for each part of the suffixes the hidden states of its whole inputs, [N, P + S, H], as if computed alone.

    Args:
        backbone: the model, perhaps in an adapter's wrapper.
        base: the model without it.
        batch: what to compute, with floating tensors in the model's dtype.
        rope_index, positions: as in `position_ids`.
    """
    mask, cache = batch.prefixes["attention_mask"], DynamicCache()
    before = position_ids(base, batch.prefixes, rope_index, positions)
    first = _states(backbone, batch.prefixes, before, cache)
    for part in batch.suffixes:
        # a suffix is numbered by itself, from where its prefix ends
        own = position_ids(base, part.inputs, rope_index, positions)
        after = following(before, mask, 1)[..., part.owners, :] + own
        inputs = part.inputs | {"attention_mask": batch.whole("attention_mask", part)}
        yield torch.cat([first[part.owners], _states(backbone, inputs, after, _repeated(cache, part.owners))], 1)


def _changed(tensors: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    return {name: change(tensor) for name, tensor in tensors.items()}


def _states(backbone: nn.Module, inputs: dict[str, Tensor], places: Tensor, cache: DynamicCache) -> Tensor:
    return backbone(**inputs, position_ids=places, cache=cache, use_cache=True).last_hidden_state


def _repeated(cache: DynamicCache, owners: Tensor) -> DynamicCache:
    """Return a cache of G prefixes as that of N inputs, `owners` [N] naming the prefix of each."""
    repeated = DynamicCache()
    for layer in cache.layers:
        # a cache that was made without a config holds no other layers, and a forward has filled them
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
            raise ModelError(f"prefixes cannot be shared: the model keeps a layer's keys in {kind_of(layer)}")
        repeated.layers.append(_RepeatedLayer(layer.keys, layer.values, owners))
    return repeated


class _RepeatedLayer(DynamicLayer):
    """One layer's keys and values [G, ...] as those of N inputs. Nothing is added to them, and they are repeated when
    their layer is computed, so that one layer's copies are held at a time."""

    def __init__(self, keys: Tensor, values: Tensor, owners: Tensor):
        super().__init__()
        self._keys, self._values, self._owners = keys, values, owners
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return the prefixes' keys and values with those of the suffixes behind them."""
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)

    def get_seq_length(self) -> int:
        """Return the tokens of a prefix."""
        return self._keys.shape[-2]

    @property
    def keys(self) -> Tensor:
        """The prefixes' keys [N, heads, P, D], a new copy at each call."""
        return self._keys[self._owners]

    @keys.setter
    def keys(self, _: object) -> None:
        """Do nothing: transformers' constructor sets None."""

    @property
    def values(self) -> Tensor:
        """The prefixes' values [N, heads, P, D], a new copy at each call."""
        return self._values[self._owners]

    @values.setter
    def values(self, _: object) -> None:
        """Do nothing: transformers' constructor sets None."""
