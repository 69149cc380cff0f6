"""Vectors made of vectors: an edit made weaker or stronger, weighted sums, and the arc between two.

A part of weight 0 is left out, and a part that is left alone comes back as it is: a neutral setting changes no bit.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError

_STRAIGHT = 1e-6  # radians: below it an arc is a line


def weighted(*parts: tuple[float, np.ndarray]) -> np.ndarray:
    """The weighted sum of unit vectors, of unit length again.

    Args: (weight, vectors [N, D] float32) pairs. Returns [N, D] float32. Raises ConfigError for a weight that is no
    number, and where all are 0.
    """
    for weight, _ in parts:
        if not np.isfinite(weight):
            raise ConfigError(f"a weight must be a finite number, not {weight}")
    told = [(weight, vectors) for weight, vectors in parts if weight]
    if not told:
        raise ConfigError("all weights are 0: nothing is left to search with")
    if len(told) == 1 and told[0][0] > 0:
        return told[0][1]
    return unit(sum(weight * vectors.astype(np.float64) for weight, vectors in told))


def edited(composed: np.ndarray, image: np.ndarray, strength: float) -> np.ndarray:
    """The composed query with its edit made stronger or weaker: v + a (q - v), of unit length.

    After PDV (arXiv 2502.07215, PDV-I), with the composed vector in the place of the text direction.

    Args:
        composed: q [N, D] float32 of unit length, picture and instruction.
        image: v [N, D] float32 of unit length, the picture alone.
        strength: a; 1 leaves q as it is, less keeps more of the picture, more changes more.
    """
    return weighted((strength, composed), (1 - strength, image))


def slerp(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """The point of the great circle from `first` (share 0) to `second` (share 1), by rows.

    Spherical interpolation as Slerp + TAT composes pictures and texts (arXiv 2405.00571).

    Args: [N, D] float32 of unit length. Returns [N, D] float32 of unit length.
    """
    if share in (0, 1):
        return second if share else first
    one, two = first.astype(np.float64), second.astype(np.float64)
    angle = np.arccos(np.clip((one * two).sum(axis=1, keepdims=True), -1, 1))
    weights = np.stack([np.sin((1 - share) * angle), np.sin(share * angle)])
    weights = np.where(np.sin(angle) < _STRAIGHT, np.array([1 - share, share])[:, None, None], weights)
    return unit(weights[0] * one + weights[1] * two)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of unit length, float32; a row of zeros stays one."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)
