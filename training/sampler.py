"""The order of rows: a function of (seed, epoch), so that resuming needs no replay."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler


class GroupedSampler(Sampler[int]):
    """Shuffles chunks of up to `per_group` rows of one group, so that they share a batch and contrast with each other.

    Triplets on one reference picture differ only by their instruction: together they are the hard negatives that no
    shortcut through the picture can tell apart. With `per_group=1` this is a plain shuffle.
    """

    def __init__(self, groups: Sequence[str], per_group: int, seed: int):
        self.groups, self.per_group, self.seed, self.epoch = groups, per_group, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self.seed}/{self.epoch}")
        members: dict[str, list[int]] = {}
        for index, group in enumerate(self.groups):
            members.setdefault(group, []).append(index)
        chunks = []
        for rows in members.values():
            rng.shuffle(rows)
            chunks += [rows[start : start + self.per_group] for start in range(0, len(rows), self.per_group)]
        rng.shuffle(chunks)
        return iter([index for chunk in chunks for index in chunk])
