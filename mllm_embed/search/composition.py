"""A question to a gallery: what of it the model embeds, and the one vector that is searched with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..types import Item, Query
from ..vectors.fusion import edited


@dataclass(frozen=True)
class Composition:
    """A query, with its edit as strong as is asked.

    Args:
        query: image, text, or image and instruction, and perhaps what it avoids.
        edit_strength: how far a composed query goes from its picture (`fusion.edited`): 1 as asked, less keeps more
            of the picture, more changes more, what is avoided among it; others have no edit.
    """

    query: Query
    edit_strength: float = 1.0

    def __post_init__(self) -> None:
        if not np.isfinite(self.edit_strength):
            raise ConfigError(f"the edit strength must be a finite number, not {self.edit_strength}")

    @property
    def _is_edited(self) -> bool:
        return self.edit_strength != 1 and self.query.role == "composed"

    @property
    def items(self) -> list[Item]:
        """What is to be embedded: the query first."""
        items: list[Item] = [self.query]
        if self._is_edited:
            items.append(Query(image=self.query.image, task=self.query.task))
        return items

    def vector(self, found: np.ndarray) -> np.ndarray:
        """Return what is searched with, [1, D] float32 of unit length.

        Args:
            found: the vectors of `items`, [n, D] float32 of unit length.
        """
        vector = found[:1]
        return edited(vector, found[1:2], self.edit_strength) if self._is_edited else vector
