"""Several vectors an input, as late interaction makes them: a list of matrices of different heights, kept in one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MultiVectors:
    """The vectors of N inputs; iterating gives each input's [T, D].

    Args:
        values: [M, D] float32, those of all inputs, one input after the other.
        starts: [N + 1] int64, where in `values` each input's begin, and at the end M.
    """

    values: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[np.ndarray], width: int) -> MultiVectors:
        """Put each input's vectors [T, D] together, D being `width`, which no input at all would not tell."""
        starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(np.concatenate([np.empty((0, width), np.float32), *parts]), starts)

    @property
    def counts(self) -> np.ndarray:
        """How many vectors each input has: [N] int64."""
        return np.diff(self.starts)

    @property
    def nbytes(self) -> int:
        """The bytes of the vectors."""
        return self.values.nbytes

    def __len__(self) -> int:
        """Return the number of inputs."""
        return len(self.starts) - 1

    def __getitem__(self, place: int) -> np.ndarray:
        """Return the vectors [T, D] of one input, which are not copied."""
        return self.values[self.starts[place] : self.starts[place + 1]] if place >= 0 else self[len(self) + place]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the vectors [T, D] of each input."""
        return (self[place] for place in range(len(self)))

    def take(self, places: Iterable[int]) -> MultiVectors:
        """Return some of the inputs, by their places, in the order given."""
        return MultiVectors.of([self[place] for place in places], self.values.shape[1])

    def united(self, sizes: Sequence[int]) -> MultiVectors:
        """Return one input for each run of `sizes` inputs, with the vectors of all of them."""
        return MultiVectors(self.values, self.starts[np.cumsum([0, *sizes])])
