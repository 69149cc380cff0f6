"""Rows to model input: each distinct input of a batch is encoded once, in micro-batches of inputs of one kind."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import get_worker_info

from mllm_embed.errors import MLLMEmbedError
from mllm_embed.types import Item

from .data import Row


@dataclass
class ContrastiveCollator:
    """Rows -> {"micro_batches": [model input, ...], "places": {role: [B] int64}}.

    `places` says which encoded vector plays each role in each row. Inputs that are equal (a reference picture that four
    rows share, a caption that occurs twice) are encoded once and share their place, which is also how the loss knows
    them as equal. A micro-batch holds inputs of one kind (composed, image, text), so that none is padded to another's
    length.
    """

    process: Callable[[list[Item]], dict[str, torch.Tensor]]
    roles: list[str]

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        try:
            return self._collate(rows)
        except MLLMEmbedError as error:
            if get_worker_info() is None:
                raise
            return {"error": error}  # raised in the main process: torch would wrap it in the worker's traceback

    def _collate(self, rows: list[Row]) -> dict[str, Any]:
        distinct: dict[Hashable, Item] = {}
        keys = {role: [_remember(distinct, row.roles[role]) for row in rows] for role in self.roles}
        kinds: dict[str, list[Hashable]] = {}
        for key, item in distinct.items():
            kinds.setdefault(item.role, []).append(key)
        place = {key: number for number, key in enumerate(key for kind in kinds.values() for key in kind)}
        return {
            "micro_batches": [self.process([distinct[key] for key in kind]) for kind in kinds.values()],
            "places": {role: torch.tensor([place[key] for key in keys[role]]) for role in self.roles},
        }


def _remember(distinct: dict[Hashable, Item], item: Item) -> Hashable:
    """Keep `item` under the key that equal inputs share."""
    distinct.setdefault(item.key, item)
    return item.key
