"""How hard an index must search for how many answers: what finds ten of ten misses many of a thousand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

BASE = 10
"""The number of answers that an index' own setting was chosen for."""


@dataclass(frozen=True)
class Effort:
    """Settings of a kind's knob by the number of answers, as they were measured when the index was built.

    Args:
        settings: the setting for each number of answers, `BASE` among them.
    """

    settings: Mapping[int, int]

    def setting_at(self, depth: int, setting: int, most: int) -> int:
        """Return the setting for `depth` answers of an index whose setting for `BASE` is `setting`, at most `most`.

        Between two that were measured it is on the line through both in logarithms; beyond the last one it grows as
        the number of answers does.
        """
        if depth <= BASE or not setting:  # or of a kind that has no knob
            return setting
        depths = np.array(sorted(self.settings))
        values = np.array([self.settings[at] for at in depths])
        grown = np.exp(np.interp(np.log(depth), np.log(depths), np.log(values))) / values[0]
        return max(setting, min(most, int(np.ceil(setting * grown * max(1, depth / depths[-1]) - 1e-9))))
