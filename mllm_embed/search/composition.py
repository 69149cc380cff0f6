"""A question to a gallery: what of it the model embeds, and the one vector that is searched with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..types import Item, Query
from ..vectors.fusion import edited, weighted

WITHOUT = 0.5
"""How much of the vector of unwanted words is taken off, as Rocchio's feedback takes off what is not relevant.

Half of it was chosen on the demo's scenes: more leaves out more of what is not wanted, and of what is.
"""


@dataclass(frozen=True)
class Composition:
    """A query, with its edit as strong as is asked, and without what is not wanted.

    Args:
        query: image, text, or image and instruction.
        edit_strength: how far a composed query goes from its picture (`fusion.edited`): 1 as asked, less keeps more
            of the picture, more changes more; others have no edit.
        without: words for what must not be seen: their vector is taken off, `WITHOUT` of it.
    """

    query: Query
    edit_strength: float = 1.0
    without: str | None = None

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
        if self.without is not None:
            items.append(Query(text=self.without, task=self.query.task))
        return items

    def vector(self, found: np.ndarray) -> np.ndarray:
        """Return what is searched with, [1, D] float32 of unit length.

        Args:
            found: the vectors of `items`, [n, D] float32 of unit length.
        """
        vector = found[:1]
        if self._is_edited:
            vector = edited(vector, found[1:2], self.edit_strength)
        if self.without is not None:
            vector = weighted((1.0, vector), (-WITHOUT, found[-1:]))
        return vector
