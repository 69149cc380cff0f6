"""Vectors of unit length: the one rule of the library, that of zero vectors included."""

from __future__ import annotations

import numpy as np

_SHORTEST = np.finfo(np.float32).tiny


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return each row of [N, D] floats divided by its length: [N, D] float32.

    The division is done in the precision of the input. A row of zeros has no direction and stays zeros.
    """
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    # the divisor is never 0, and changes no row whose length float32 can hold
    return (vectors / np.maximum(lengths, _SHORTEST)).astype(np.float32, copy=False)
