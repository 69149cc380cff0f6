"""How hard an index must search for how many answers: what finds ten of ten misses many of a thousand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

BASE = 10
"""The number of answers that an index' own setting was chosen for."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Effort:
    """How the setting of a kind's knob, and how many candidates are scored again, grow with the number of answers.

    Args:
        measured: for each number of answers, `BASE` among them, the setting, and how many times as many candidates are
            scored again by their full vectors, as they were chosen when the index was built.
    """

    measured: Mapping[int, tuple[int, int]]

    def at(self, depth: int, setting: int, rerank: int, most: int) -> tuple[int, int]:
        """Return setting and candidates for `depth` answers of an index that has these for `BASE`.

        They are those of the next number of answers that was measured: what finds thirty does not tell what finds
        twenty, but is enough for it. Beyond the last one the setting grows as the number of answers does.

        Args:
            depth: answers.
            setting: of the knob, 0 where there is none.
            rerank: how many times as many candidates.
            most: the setting beyond which nothing more is found.
        """
        if depth <= BASE:
            return setting, rerank
        deepest = max(self.measured)
        first, chosen = (
            self.measured[BASE],
            self.measured[min((at for at in self.measured if at >= depth), default=deepest)],
        )
        higher = setting * chosen[0] * max(1, depth / deepest) / max(first[0], 1)
        return (
            max(setting, min(most, math.ceil(higher - _ROUNDING))),
            max(rerank, math.ceil(rerank * chosen[1] / first[1] - _ROUNDING)),
        )
