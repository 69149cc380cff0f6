"""What a form is: from the vectors of a gallery to something of a size that can be searched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Search = Callable[[Any, int], np.ndarray]
"""From Q queries and a count to the best rows [Q, count] int64 of each, best first, -1 where there are fewer."""


@dataclass(frozen=True)
class Built:
    """A gallery in a form.

    Args:
        bytes: of a picture, its number not counted.
        shared: bytes that all pictures share: tables, maps, rotations.
        search: finds rows for queries; of a vector's queries the vectors, [Q, D], and so on.
    """

    bytes: float
    shared: int
    search: Search


class Form(Protocol):
    """A form in which the vectors of a model are kept.

    Attributes:
        learns: whether `train` must be called before `build`.
    """

    learns: bool

    def train(self, pictures: Any, folder: Path, rows: int) -> None:
        """Learn of other pictures' vectors, for a gallery of so many rows, and leave what was learned in a folder."""
        ...

    def build(self, gallery: Any, folder: Path) -> Built:
        """Return a gallery in this form, by what `train` left in the folder."""
        ...


class Untrained:
    """A form that learns nothing."""

    learns = False

    def train(self, pictures: Any, folder: Path, rows: int) -> None:
        """As `Form.train`."""


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the rows [Q, count] int64 of the best scores [Q, N], equal ones in order of the rows."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]
