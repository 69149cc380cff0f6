"""Rows to model input: each distinct input of a batch is encoded once, in micro-batches of inputs of one kind."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import get_worker_info

from mllm_embed.errors import MLLMEmbedError
from mllm_embed.types import Item

from .config import Use
from .data import Row


@dataclass
class ContrastiveCollator:
    """Rows -> {"live": [model input, ...], "frozen": [model input, ...], "places": {use: [B] int64}, "inputs": [U]}.

    The live micro-batches go through what is trained, the frozen ones through the model without its adapter; the
    vectors of the live ones come first. `places` says which vector plays each use of a role in each row. Inputs that
    are equal (a reference picture that four rows share, a caption that occurs twice) share their place where they go
    through the same tower, and their number in `inputs` in any case: that is how the loss knows them as equal. A
    micro-batch holds inputs of one kind (composed, image, text), so that none is padded to another's length.
    """

    process: Callable[[list[Item]], dict[str, torch.Tensor]]
    uses: list[Use]

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        try:
            return self._collate(rows)
        except MLLMEmbedError as error:
            if get_worker_info() is None:
                raise
            return {"error": error}  # raised in the main process: torch would wrap it in the worker's traceback

    def _collate(self, rows: list[Row]) -> dict[str, Any]:
        kinds: dict[bool, dict[str, dict[Hashable, Item]]] = {False: {}, True: {}}
        for use in self.uses:
            for item in (row.roles[use.role] for row in rows):
                kinds[use.frozen].setdefault(item.role, {}).setdefault(item.key, item)
        encoded = [(key, frozen) for frozen, tower in kinds.items() for items in tower.values() for key in items]
        place = {entry: number for number, entry in enumerate(encoded)}
        number = {key: index for index, key in enumerate(dict.fromkeys(key for key, _ in encoded))}
        live, frozen = ([self.process(list(items.values())) for items in tower.values()] for tower in kinds.values())
        return {
            "live": live,
            "frozen": frozen,
            "places": {
                use: torch.tensor([place[row.roles[use.role].key, use.frozen] for row in rows]) for use in self.uses
            },
            "inputs": torch.tensor([number[key] for key, _ in encoded]),
        }
