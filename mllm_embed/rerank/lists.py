"""The order of more candidates than one prompt holds, from windows of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def in_order(score: Callable[[Sequence[int]], Sequence[float]], count: int, window: int) -> list[int]:
    """Return the numbers from 0 to `count` - 1, the best first.

    Args:
        score: what gives each of some numbers, at most `window`, a score to be compared within the call alone.
        count: how many there are.
        window: how many are compared at once; each window overlaps the one before it by half (RankGPT, arXiv
            2304.09542, section 3.2).
    """
    order = list(range(count))
    step = max(window // 2, 1)
    start = max(count - window, 0)
    while True:
        part = order[start : start + window]
        scores = score(part)
        places = sorted(range(len(part)), key=lambda at: -scores[at])  # stable: equal ones stay in their order
        order[start : start + window] = [part[at] for at in places]
        if start == 0:
            return order
        start = max(start - step, 0)
