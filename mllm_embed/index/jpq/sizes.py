"""Which codes can be made of a vector."""

from __future__ import annotations

from ...errors import ConfigError

CENTROIDS = 256
"""Centroids of each piece: a code has a byte for each."""


def check_bytes(count: int, dimension: int) -> None:
    """Raise ConfigError where codes of `count` bytes cannot be made of vectors of `dimension` numbers."""
    if dimension % count:
        fit = [other for other in range(1, dimension + 1) if dimension % other == 0]
        near = sorted(fit, key=lambda other: abs(other - count))[:2]
        raise ConfigError(
            f"codes of {count} bytes do not divide vectors of {dimension} numbers into equal pieces; give "
            f"{' or '.join(map(str, sorted(near)))}"
        )
