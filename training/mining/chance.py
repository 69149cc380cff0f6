"""Whether clusters are better than chance: how many of a graph's edges they keep, and how many they would anyway.

Parts drawn at random keep a known share of the edges. METIS keeps more than that of any graph, also of one that means
nothing: the honest comparison is what it keeps of the same graph rewired, in which every row has as many edges as it
had, to rows drawn at random (the configuration model). Vectors that tell nothing give such a graph themselves, and of
rows that are too few each is near each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .clusters import partition

DRAWS = 3  # rewired graphs, of which the one counts that most is kept of
_LARGE = 2_000_000  # edges from which on one such graph is enough: more edges spread less
CLEAR = 1.1  # times as many edges as of a rewired graph are clearly more


@dataclass(frozen=True)
class Chance:
    """How many of the edges clusters keep.

    Args:
        edges: how many there are.
        kept: the share of them within clusters.
        drawn: what clusters of these sizes with rows drawn at random keep on average.
        rewired: what METIS keeps of the rewired graph.
    """

    edges: int
    kept: float
    drawn: float
    rewired: float

    @property
    def better(self) -> bool:
        """Whether clusters are clearly better than those of rows that have nothing to do with each other."""
        return self.kept > CLEAR * self.rewired


def chance_of(left: np.ndarray, right: np.ndarray, clusters: np.ndarray, size: int) -> Chance:
    """Compare clusters [R] int64 of about `size` rows with chance; `left`, `right` [E] int64 are both directions of
    every edge, sorted by `left`."""
    count = len(clusters)
    sizes = np.bincount(clusters).astype(np.float64)
    drawn = float((sizes * (sizes - 1)).sum() / max(1.0, count * (count - 1.0)))
    if not len(left):
        return Chance(0, 0.0, drawn, 0.0)
    draws = range(DRAWS if len(left) < _LARGE else 1)
    most = max(_kept_when_rewired(left, right, count, size, seed) for seed in draws)
    return Chance(len(left) // 2, _kept(left, right, clusters), drawn, most)


def _kept(left: np.ndarray, right: np.ndarray, clusters: np.ndarray) -> float:
    return float((clusters[left] == clusters[right]).mean()) if len(left) else 0.0


def _kept_when_rewired(left: np.ndarray, right: np.ndarray, count: int, size: int, seed: int) -> float:
    one, other = rewired(left, right, count, seed)
    return _kept(one, other, partition(one, other, count, size))


def rewired(left: np.ndarray, right: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a graph of `count` rows with about as many edges a row as the given one, to rows drawn at random.

    Both directions of every edge, sorted; an edge that would come twice, or lead back, is left out.
    """
    ends = np.random.default_rng(seed).permutation(left)[: len(left) // 2 * 2].reshape(2, -1)  # a row once an edge
    keys = np.unique(np.minimum(*ends) * count + np.maximum(*ends))
    low, high = np.divmod(keys, max(1, count))
    low, high = low[low != high], high[low != high]
    both = np.sort(np.concatenate([low * count + high, high * count + low]))
    one, other = np.divmod(both, max(1, count))
    return one, other
