"""Numbers that stand for texts and inputs, the same in every process."""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Turn(NamedTuple):
    """The seed of a run and the number of an epoch, from 0, which decide what is read where a row has a choice."""

    seed: int
    epoch: int

    def of(self, name: str, count: int) -> int:
        """Return which of `count` is read: each comes once in as many epochs, and what comes first is by chance.

        `name` tells the choices of a run apart: a row and its column.
        """
        return (number_of(f"{self.seed} {name}") + self.epoch) % count

    def draw(self, name: str) -> float:
        """Return a number from 0 to 1, 1 excluded, by chance: another one in each epoch.

        `name` tells the choices of an epoch apart.
        """
        return (number_of(f"{self.seed} {self.epoch} {name}") % (1 << 53)) / (1 << 53)


def number_of(*parts: str | bytes) -> int:
    """Return an int64 that equal contents share, and others do not in practice: 8 bytes of BLAKE2."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part)
    return int.from_bytes(digest.digest(), "big", signed=True)
