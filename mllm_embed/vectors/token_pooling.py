"""Fewer vectors an input by clusters: near ones become their mean (Clavié et al., arXiv 2409.14683).

The clusters are those of colpali-engine's HierarchicalTokenPooler: Ward's linkage over the distances 1 - v . w of each
vector to all of its input, cut so that of T vectors at most max(T // factor, 1) are left, each the mean of its cluster
at unit length. What is asked stays whole in both: documents alone are what takes room.
"""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from ..errors import ConfigError
from .unit import unit


def check_factor(factor: object) -> None:
    """Raise ConfigError for a factor that is no whole number over 0; 1 leaves all vectors."""
    if type(factor) is not int or factor < 1:
        raise ConfigError(f"pool_factor is how many vectors become one, a whole number over 0, not {factor!r}")


def pooled_tokens(vectors: np.ndarray, factor: int) -> np.ndarray:
    """Return the means of clusters of an input's vectors [T, D] float32, L2-normalised, in the order of each cluster's
    first: [at most T // factor, D], alike. Takes T x T numbers."""
    if factor == 1 or len(vectors) < 2:
        return vectors
    tree = linkage(1 - vectors @ vectors.T, "ward")
    labels = fcluster(tree, max(len(vectors) // factor, 1), "maxclust")
    _, firsts, numbers = np.unique(labels, return_index=True, return_inverse=True)
    sums = np.zeros((len(firsts), vectors.shape[1]), np.float64)
    np.add.at(sums, numbers, vectors)
    return unit(sums[np.argsort(firsts)])
