"""Vectors as a checked matrix, and the score of a pair of them: the definition, and how far a fast product may be off.

The score of a pair is the float32 nearest to its float64 inner product. It depends on the two vectors alone, never on
the batch, the library or the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import DataError

_BLOCK_VALUES = 1 << 23  # numbers converted to float64 at a time
_CACHED_VALUES = 1 << 18  # 2 MB of float64, which stay in a core's cache: more than twice as fast as larger blocks
_UNIT_ROUNDOFF = 2.0**-24
_SHORT = 1e-30  # a squared length in float32 below this may have lost what underflows
_LARGEST = 1e37  # products of longer vectors may overflow float32


@dataclass(frozen=True)
class Matrix:
    """Vectors that were looked at, which reads all of them: who asks them often keeps this.

    Args:
        values: [N, D] float32, finite, rows one after the other.
        squares: [N] float64, their squared lengths.
    """

    values: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, name: str) -> Matrix:
        """Look at vectors [N, D], cast to float32.

        Args:
            values: of any dtype; float32 is not copied.
            name: what they are, for the error.

        Raises:
            DataError: they are no matrix, or hold NaN or infinite numbers.
        """
        matrix = np.ascontiguousarray(values, dtype=np.float32)
        if matrix.ndim != 2 or matrix.shape[1] == 0:
            raise DataError(f"{name} must be a matrix with one vector a row, not of shape {matrix.shape}")
        squares = _squares(matrix)
        bad = np.flatnonzero(~np.isfinite(squares))
        if len(bad):
            raise DataError(f"{name} row {bad[0]} holds NaN or infinite values ({len(bad)} such rows): cannot rank")
        return cls(matrix, squares)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.values)

    @cached_property
    def longest(self) -> float:
        """The largest squared length, 0 of no row."""
        return float(self.squares.max(initial=0))

    def __getitem__(self, rows: np.ndarray | slice) -> Matrix:
        """Return some of the rows, in the order asked for."""
        return Matrix(self.values[rows], self.squares[rows])


def check_pair(queries: Matrix, gallery: Matrix) -> None:
    """Raise DataError for vectors that have no float32 products."""
    if queries.values.shape[1] != gallery.values.shape[1]:
        raise DataError(f"queries have {queries.values.shape[1]} dimensions and the gallery {gallery.values.shape[1]}")
    longest = queries.longest**0.5 * gallery.longest**0.5
    if not longest < _LARGEST:
        raise DataError(f"the vectors are too long for float32 products ({longest:.0e}): give them unit length")


def scores_of(queries: Matrix, gallery: Matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the scores [M] float32 of pairs of positions [M]: the definition, a float64 inner product, rounded."""
    scores = np.empty(len(rows), dtype=np.float32)
    step = max(1, _CACHED_VALUES // gallery.values.shape[1])
    for at in range(0, len(rows), step):
        part = slice(at, at + step)
        scores[part] = (queries.values[rows[part]].astype(np.float64) * gallery.values[columns[part]]).sum(axis=1)
    return scores


def slack(queries: Matrix, gallery: Matrix) -> np.ndarray:
    """Return a bound [Q] on |fast float32 product - score|, whatever the order of summation (Higham 2002, 3.1)."""
    terms = gallery.values.shape[1] + 2
    blur = 1 + 2 * terms * _UNIT_ROUNDOFF  # of the squares themselves
    lengths = blur * np.sqrt(queries.squares * gallery.longest)
    return lengths * terms * _UNIT_ROUNDOFF / (1 - terms * _UNIT_ROUNDOFF) + terms * np.finfo(np.float32).tiny


def _squares(matrix: np.ndarray) -> np.ndarray:
    """Return the squared length of every row [N] float64, reading the matrix once and copying none of it."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", matrix, matrix).astype(np.float64)
    odd = ~((squares > _SHORT) & (squares < np.finfo(np.float32).max))  # out of float32's range, or not finite
    for rows in np.array_split(np.flatnonzero(odd), 1 + odd.sum() * matrix.shape[1] // _BLOCK_VALUES):
        squares[rows] = np.square(matrix[rows].astype(np.float64)).sum(axis=1)
    return squares
