"""Vectors of fewer dimensions or fewer bits: matryoshka truncation, int8, and one bit a dimension."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from ..errors import ConfigError
from .unit import unit

Precision = Literal["float32", "int8", "binary", "ubinary"]
_ROUNDING = 0.02  # of the square of a length, in half precision


def check_dim(dim: int | None, width: int) -> None:
    """Raise ConfigError for a `dim` that vectors of `width` numbers do not have; None is all of them."""
    if dim is not None and not (type(dim) is int and 1 <= dim <= width):
        raise ConfigError(f"dim must be between 1 and {width}, the length of this model's vectors, not {dim}")


def truncate(vectors: np.ndarray, dim: int | None, renormalize: bool = True) -> np.ndarray:
    """Return the first `dim` numbers of each vector at unit length: [N, D] -> [N, dim] float32; None is all of them.

    Loses little where training took part in it (matryoshka, arXiv 2205.13147), much where it did not. Without
    `renormalize` they stay as they are, shorter than 1, as sentence-transformers' truncate_dim leaves them: cosines do
    not see that, inner products do.
    """
    if dim is None or dim == vectors.shape[1]:
        return vectors
    return unit(vectors[:, :dim]) if renormalize else np.ascontiguousarray(vectors[:, :dim])


def to_precision(vectors: np.ndarray, precision: Precision) -> np.ndarray:
    """Convert vectors [N, D] float32 to [N, D] float32, [N, D] int8, or for "binary" [N, ceil(D / 8)] uint8.

    int8: each vector scaled so that its largest number becomes 127; a cosine does not see the scale, so none is kept
    and a vector does not depend on others. binary: the sign of each dimension, eight to a byte, 1 for a positive one,
    as `numpy.packbits` and faiss' binary indexes lay them out. sentence-transformers calls that "ubinary", which is
    taken as another name of it; what it calls "binary" are the same bytes less 128, as int8.

    Raises:
        ConfigError: the precision is not known.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"precision '{precision}' is not known; use {', '.join(get_args(Precision))}")
    if precision in ("binary", "ubinary"):
        return np.packbits(vectors > 0, axis=1)
    if precision == "int8":
        peak = np.abs(vectors).max(axis=1, keepdims=True, initial=0).clip(np.finfo(np.float32).tiny)
        return np.rint(vectors * (127 / peak)).astype(np.int8)
    return vectors


def cosines(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Return the similarities [Q, N] float32 of queries [Q, ...] and documents [N, ...] of one precision.

    The dtype says which. float32: the inner product of unit vectors; shorter ones are brought to unit length. int8: the
    cosine. uint8 (binary): 1 - 2 x Hamming distance / bits, the cosine of the sign vectors; bits that fill the last
    byte count as equal.

    Raises:
        ConfigError: two precisions, or two lengths.
    """
    if queries.dtype != documents.dtype or queries.shape[1] != documents.shape[1]:
        kinds = " and ".join(f"{part.shape[1]} x {part.dtype}" for part in (queries, documents))
        raise ConfigError(f"similarity needs vectors of one length and precision, not {kinds}; encode both alike")
    if queries.dtype == np.uint8:  # bits as 1 and -1, whose product counts how many agree
        queries, documents = (np.unpackbits(bits, axis=1).astype(np.float32) * 2 - 1 for bits in (queries, documents))
        return queries @ documents.T / queries.shape[1]
    if queries.dtype == np.int8:
        queries, documents = (unit(numbers.astype(np.float32)) for numbers in (queries, documents))
    else:
        queries, documents = map(_at_unit_length, (queries, documents))
    return queries @ documents.T


def _at_unit_length(vectors: np.ndarray) -> np.ndarray:
    """Return float vectors [N, D] as they are where rounding alone, or a row of zeros, keeps them from unit length."""
    lengths = np.einsum("nd,nd->n", vectors, vectors)
    return vectors if ((np.abs(lengths - 1) < _ROUNDING) | (lengths == 0)).all() else unit(vectors)
