"""Vectors that turn away from something: negatives in words, "without a person".

    q' = (q - w (a - (a . q) q)) / |q - w (a - (a . q) q)|

q is the vector of a query, a that of the words for what must not be seen. What the query says itself is not taken from
it: of a only the part across q is, what the words add to the query. So no query turns by more than arctan(w), and one
that is asked to avoid its own words stays as it is.

It is Rocchio's feedback (1971) with one negative example, whose part along the query is left out.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from .unit import unit

WEIGHT = 0.5
"""w: a query turns by 27 degrees at most. On the demo's scenes more gains little where the words tell what is right,
and loses more where they say nothing (scripts/README.md)."""


def avoiding(queries: np.ndarray, avoided: np.ndarray, weight: float = WEIGHT) -> np.ndarray:
    """Return queries that are turned away from what each must avoid: [N, D] float32 of unit length.

    Args:
        queries: q [N, D] float32 of unit length.
        avoided: a [N, D] float32 of unit length, the words of each query's `avoid`.
        weight: w; 0 leaves the queries as they are, to the last bit.

    Raises:
        ConfigError: the weight is negative, or no finite number.
    """
    if not (np.isfinite(weight) and weight >= 0):
        raise ConfigError(f"the weight of what is avoided must be a finite number, 0 or more, not {weight}")
    if not weight:
        return queries
    query, words = queries.astype(np.float64), avoided.astype(np.float64)
    across = words - (words * query).sum(axis=1, keepdims=True) * query
    return unit(query - weight * across)
