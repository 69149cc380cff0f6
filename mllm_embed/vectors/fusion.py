"""Vectors made of vectors: an edit made weaker or stronger, weighted sums, and the arc between two.

A part of weight 0 is left out, and a part that is left alone comes back as it is: a neutral setting changes no bit.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from .unit import unit

_STRAIGHT = 1e-6  # the sine of an angle, about its radians: below it an arc is a line


def weighted(*parts: tuple[float, np.ndarray]) -> np.ndarray:
    """Return the weighted sum of unit vectors, of unit length again: [N, D] float32.

    Args:
        parts: pairs of a weight and vectors [N, D] float32 of unit length.

    Raises:
        ConfigError: a weight is no finite number, or all are 0.
    """
    for weight, _ in parts:
        if not np.isfinite(weight):
            raise ConfigError(f"a weight must be a finite number, not {weight}")
    used = [(weight, vectors) for weight, vectors in parts if weight]
    if not used:
        raise ConfigError("all weights are 0: nothing is left to search with")
    if len(used) == 1 and used[0][0] > 0:
        return used[0][1]  # as it is: a positive weight alone changes no direction, and dividing could change a bit
    total = np.zeros(used[0][1].shape)
    # only their proportions matter: scaled by a power of two, which rounds nothing, none is too large for a length
    _, exponent = np.frexp(max(abs(weight) for weight, _ in used))
    for weight, vectors in used:
        total += np.ldexp(weight, -exponent) * vectors.astype(np.float64)
    return unit(total)


def edited(composed: np.ndarray, image: np.ndarray, strength: float) -> np.ndarray:
    """Return composed queries with their edits made stronger or weaker: v + a (q - v), [N, D] float32 of unit length.

    After PDV (arXiv 2502.07215, PDV-I), with the composed vector in the place of the text direction.

    Args:
        composed: q [N, D] float32 of unit length, picture and instruction.
        image: v [N, D] float32 of unit length, the picture alone.
        strength: a; 1 leaves q as it is, less keeps more of the picture, more changes more.

    Raises:
        ConfigError: the strength is no finite number.
    """
    return weighted((strength, composed), (1 - strength, image))


def slerp(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Return the point of the great circle from `first` (share 0) to `second` (share 1), row by row.

    Spherical interpolation as Slerp + TAT composes pictures and texts (arXiv 2405.00571).

    Args:
        first, second: [N, D] float32 of unit length.
        share: of the arc, 0 to 1.

    Returns:
        [N, D] float32 of unit length.
    """
    if share in (0, 1):
        return second if share else first
    one, two = first.astype(np.float64), second.astype(np.float64)
    angle = np.arccos(np.clip((one * two).sum(axis=1, keepdims=True), -1, 1))
    weights = np.stack([np.sin((1 - share) * angle), np.sin(share * angle)])
    # both weights are divided by sin(angle) in the formula; `unit` undoes any factor, and 0 / 0 is none this way
    weights = np.where(np.sin(angle) < _STRAIGHT, np.array([1 - share, share])[:, None, None], weights)
    return unit(weights[0] * one + weights[1] * two)
