"""A thought and the vector behind it in one pass: the likeliest tokens, their keys and values kept for what follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from ..errors import ModelError, kind_of
from ..model.embedding_model import EmbeddingModel
from ..model.position_ids import following, position_ids
from .writer import Thought, by_token


@dataclass(frozen=True)
class ThinkingBatch:
    """Queries that are to think, padded on the left.

    Args:
        prompts: model input up to where the thoughts begin; with `first_shown` where rows may share features.
        most: tokens of a thought at most.
        ends: [E] int64, the tokens at which a thought ends, which are none of it.
        suffix: what follows a thought, up to the token that is pooled.
        told: is called with the thought of each row, by its place.
        thoughts: those of the rows, once they are written.
    """

    prompts: dict[str, Tensor]
    most: int
    ends: Tensor
    suffix: Thought
    told: Callable[[int, Thought], None]
    thoughts: list[Thought] = field(default_factory=list)

    def to(self, device: torch.device) -> ThinkingBatch:
        """Return the same on another device."""
        moved = {name: tensor.to(device) for name, tensor in self.prompts.items()}
        return replace(self, prompts=moved, ends=self.ends.to(device))


def think(model: EmbeddingModel, batch: ThinkingBatch) -> Tensor:
    """Return the vectors [B, D] float32 of queries, L2-normalised, after the model has written their thoughts.

    They are those of prompt, thought and suffix in a row, computed at once. Raises ModelError for a model that does not
    keep the keys and values of its tokens.
    """
    run = _Run(model, batch)
    thoughts, waiting = _written(run, batch)
    batch.thoughts[:] = thoughts
    for row, thought in enumerate(thoughts):
        batch.told(row, thought)
    run.close_up(waiting)
    suffix = torch.tensor(batch.suffix, device=waiting.device)
    hidden = run.step(suffix.expand(len(thoughts), -1), torch.ones_like(suffix).expand(len(thoughts), -1), waiting)
    return model.vectors(hidden[:, -1].float())


def _written(run: _Run, batch: ThinkingBatch) -> tuple[list[Thought], Tensor]:
    """Return the thoughts of all rows, and how many tokens each is behind the longest, [B] int64."""
    told: list[Tensor] = []
    ended = torch.zeros(len(run.mask), dtype=torch.bool, device=run.mask.device)
    while len(told) < batch.most:
        chosen = run.likeliest()
        ended = ended | torch.isin(chosen, batch.ends)
        if ended.all():
            break
        told.append(chosen.masked_fill(ended, -1))
        # a row that has ended waits: what it is fed meanwhile is seen by none
        run.step(chosen.masked_fill(ended, 0)[:, None], (~ended).long()[:, None])
    if not told:
        return [()] * len(ended), torch.zeros_like(ended, dtype=torch.long)
    rows = torch.stack(told, 1)
    return list(map(_of_row, rows.tolist())), (rows < 0).sum(1)


def _of_row(row: list[int]) -> Thought:
    return tuple(token for token in row if token >= 0)


class _Run:
    """A batch on its way through the model, with the keys and values of its tokens so far."""

    def __init__(self, model: EmbeddingModel, batch: ThinkingBatch):
        """Compute the prompts."""
        self._model, self._cache = model, DynamicCache()
        inputs = model.in_dtype(batch.prompts)
        first = inputs.pop("first_shown", None)
        self.mask = inputs["attention_mask"]
        self._last = {name: inputs[name][:, -1:] for name in by_token(inputs)}
        given = model.seen(inputs, first)
        # rows that share a picture's features may lack what numbers its tokens
        numbered = inputs if model.token_learner is None else given
        before = position_ids(model.base, numbered, model.family.rope_index, model.positions)
        self._places = following(before, self.mask, batch.most + len(batch.suffix))
        self._count = 0
        self._hidden = self._compute(given, before)

    def likeliest(self) -> Tensor:
        """Return the likeliest token after each row, [B] int64."""
        head = self._model.language_head
        if head is None:
            raise ModelError("this model was loaded without its language-model head, and cannot think")
        return head(self._hidden[:, -1].to(head.weight.dtype)).float().argmax(-1)

    def step(self, tokens: Tensor, mask: Tensor, behind: Tensor | None = None) -> Tensor:
        """Go on with tokens [B, T] of which `mask` [B, T] are seen; return their hidden states [B, T, H].

        `behind` [B] is how many places a row's tokens stand before those of the longest.
        """
        count = tokens.shape[1]
        self.mask = torch.cat([self.mask, mask], 1)
        inputs: dict[str, Any] = {
            name: tensor.expand(-1, count, *tensor.shape[2:]) for name, tensor in self._last.items()
        }
        inputs |= {"input_ids": tokens, "attention_mask": self.mask}
        at = torch.arange(self._count, self._count + count, device=tokens.device).expand(len(tokens), -1)
        at = at if behind is None else at - behind[:, None]
        places = self._places.gather(-1, at.expand(*self._places.shape[:-1], -1))
        self._count += count
        self._hidden = self._compute(inputs, places)
        return self._hidden

    def close_up(self, waiting: Tensor) -> None:
        """Move each row's keys and values to the right by the tokens [B] that it waited for others: what a row has seen
        of them lies side by side then, as if it had been computed alone."""
        if not waiting.any():
            return
        length = self.mask.shape[1]
        order = (torch.arange(length, device=waiting.device) - waiting[:, None]) % length
        self.mask = self.mask.gather(1, order)
        for layer in self._cache.layers:
            if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
                raise ModelError(f"this model keeps a layer's keys in {kind_of(layer)}: it cannot think in a batch")
            if layer.keys.shape[-2] == length:  # and not those of pictures, which words look at through cross-attention
                layer.keys, layer.values = (_moved(kept, order) for kept in (layer.keys, layer.values))

    def _compute(self, inputs: dict[str, Any], places: Tensor) -> Tensor:
        hidden: Tensor = self._model.backbone(
            **inputs, position_ids=places, cache=self._cache, use_cache=True
        ).last_hidden_state
        return hidden


def _moved(kept: Tensor, order: Tensor) -> Tensor:
    return kept.gather(-2, order[:, None, :, None].expand(*kept.shape[:-2], -1, kept.shape[-1]))
