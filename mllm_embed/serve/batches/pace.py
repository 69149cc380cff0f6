"""How fast a model does what waits for it: how much it takes at once, and when whoever is refused may come again."""

from __future__ import annotations

import math

_PART = 1.0  # seconds that what is done at once is to take at most: whoever comes next waits for it
_SLOWER = 0.8  # share of what was known of the speed that is kept at each part
_LONGEST = 60  # seconds that a client is told to wait at most


class Pace:
    """The speed of a model, as it was last."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._rate = 0.0  # a second

    def took(self, count: int, seconds: float) -> None:
        """Take note of so many that were done in so many seconds."""
        rate = count / seconds
        self._rate = _SLOWER * self._rate + (1 - _SLOWER) * rate if self._rate else rate

    def at_once(self, most: int) -> int:
        """Return how many are done at once: fewer than the most by a model that is so slow that more gain nothing."""
        return min(most, max(1, int(_PART * self._rate))) if self._rate else most

    def retry_after(self, waiting: int) -> dict[str, str]:
        """Return the header that tells a client when so many that wait will be done."""
        seconds = waiting / self._rate if self._rate else 1
        return {"Retry-After": str(min(max(math.ceil(seconds), 1), _LONGEST))}
