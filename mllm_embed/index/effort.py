"""How hard an index must search for how many answers: what finds ten of ten misses many of a thousand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

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

        Between two numbers that were measured they are on the line through both in logarithms; beyond the last one the
        setting grows as the number of answers does.

        Args:
            depth: answers.
            setting: of the knob, 0 where there is none.
            rerank: how many times as many candidates.
            most: the setting beyond which nothing more is found.
        """
        if depth <= BASE:
            return setting, rerank
        depths = np.array(sorted(self.measured))
        chosen = np.log(np.maximum([self.measured[at] for at in depths], 1))
        settings, reranks = (np.interp(np.log(depth), np.log(depths), column) for column in chosen.T)
        first, beyond = self.measured[BASE], max(1, depth / depths[-1])
        higher = int(np.ceil(setting / max(first[0], 1) * np.exp(settings) * beyond - _ROUNDING))
        return max(setting, min(most, higher)), max(
            rerank, int(np.ceil(rerank / first[1] * np.exp(reranks) - _ROUNDING))
        )
