"""Rows that are hard for each other, in clusters of about one size: B3's batches (arXiv 2505.11293).

A teacher ranks the positives of all rows for each query. The first ranks are passed over as probable false negatives,
the next `EDGES` are edges, an edge stays where both rows rank each other so, and METIS cuts the graph into parts with
few edges between them. The sampler then lays a cluster's rows side by side.

Measured on one core, with groups of 200 rows that are near each other and clusters of 32: 100,000 rows take 3 s for the
edges, 17 s for METIS and 0.5 GiB; a million 46 s, 260 s and 4.4 GiB. What costs more is the search before. It is exact,
so that its time grows with the square of the rows: 110 s for 100,000 vectors of 128 numbers.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np

from mllm_embed.errors import ConfigError

EDGES = 100  # the paper's m
SKIP = 30  # the paper's p for retrieval
_SHARED = 16  # rows with one positive that take part in the graph; a label that thousands share would fill it

# Below it METIS halves the graph again and again. Its k-way method leaves most parts of two rows empty, with 8 to 16 in
# the others; of 3 to 7 rows its parts keep up to a third fewer edges, and take longer: 10,000 by 4 5.4 s, not 1.1.
_HALVED = 8


@dataclass(frozen=True)
class Clustering:
    """The settings of clusters: about `size` rows in each, and `skip` ranks passed over as probably right."""

    size: int
    skip: int = SKIP

    def check(self, rows: int, depth: int, answers: int) -> None:
        """Raise ConfigError without pymetis, and for a size or a skip that leaves nothing to cluster by.

        Args:
            rows: how many there are to cluster.
            depth: how many candidates are looked at for a row.
            answers: how many distinct positives there are.
        """
        if importlib.util.find_spec("pymetis") is None:
            raise ConfigError("--clusters needs pymetis; pip install 'mllm_embed[clusters]'")
        if not 2 <= self.size <= rows:
            raise ConfigError(
                f"--clusters is the rows of a cluster, from 2 to the {rows} that there are, not {self.size}"
            )
        if self.skip < 0:
            raise ConfigError(f"--cluster-skip must be 0 or more, not {self.skip}")
        if self.skip + 1 >= min(depth, answers):
            raise ConfigError(
                f"--cluster-skip {self.skip} passes over all that is looked at: {answers} distinct positives, --depth "
                f"{depth}; lower it"
            )


class Graph:
    """The edges between R rows, gathered from blocks of a search; of them count those that go both ways.

    Args:
        query, positive: [R] int64 as of `Questions`.
        skip: ranks passed over as probably right.
        edges: ranks after these that are edges.
    """

    def __init__(self, query: np.ndarray, positive: np.ndarray, skip: int = SKIP, edges: int = EDGES):
        self.count, self.skip, self.edges = len(query), skip, edges
        self._asked, self._asked_at = _members(query)
        self._given, self._given_at = _members(positive)
        self._found: list[np.ndarray] = []

    def add(self, first: int, places: np.ndarray, answers: int) -> None:
        """Take in the ranks of queries, from number `first` on: [q, K] int64, of which places below `answers` count."""
        real = (places >= 0) & (places < answers)
        rank = np.cumsum(real, axis=1) - 1
        query, column = np.nonzero(real & (rank >= self.skip) & (rank < self.skip + self.edges))
        targets = places[query, column]
        which, asking = _pairs(self._asked, self._asked_at, query + first, len(self._asked))
        hit, answering = _pairs(self._given, self._given_at, targets[which], _SHARED)
        ends = np.minimum(asking[hit], answering), np.maximum(asking[hit], answering)
        self._found.append(ends[0] * self.count + ends[1])

    def mutual(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that edges join, both directions of each, sorted: [E] and [E] int64."""
        keys = np.sort(np.concatenate([np.empty(0, np.int64), *self._found]))
        one, other = np.divmod(keys[1:][keys[1:] == keys[:-1]], max(1, self.count))  # found from either end
        both = np.sort(np.concatenate([one * self.count + other, other * self.count + one]))
        return np.divmod(both, max(1, self.count))


def partition(left: np.ndarray, right: np.ndarray, count: int, size: int) -> np.ndarray:
    """Cut a graph of `count` rows into parts of about `size`, and return the part of each row, [count] int64.

    `left`, `right` [E] int64 are both directions of every edge, sorted by `left`.
    """
    import pymetis

    starts = np.searchsorted(left, np.arange(count + 1))
    parts = max(1, round(count / size))
    if parts == 1:
        return np.zeros(count, np.int64)
    # with a seed, since METIS draws at random
    adjacency = pymetis.CSRAdjacency(starts.astype(np.int64), right.astype(np.int64))
    _, found = pymetis.part_graph(parts, adjacency, recursive=size < _HALVED, options=pymetis.Options(seed=0))
    return np.unique(np.asarray(found, np.int64), return_inverse=True)[1]


def _members(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows sorted by their group, and where each group starts among them, with the end: [R] and [G + 1]."""
    order = np.argsort(groups, kind="stable")
    return order, np.searchsorted(groups[order], np.arange(groups.max(initial=-1) + 2))


def _pairs(members: np.ndarray, starts: np.ndarray, groups: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each given group, its first `most` members: which of the given it was, and the member."""
    lengths = np.minimum(starts[groups + 1] - starts[groups], most)
    which = np.repeat(np.arange(len(groups)), lengths)
    within = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return which, members[starts[groups][which] + within]


def nearness(
    queries: np.ndarray, gallery: np.ndarray, query: np.ndarray, positive: np.ndarray, groups: np.ndarray
) -> tuple[float, float]:
    """Return how hard in-batch negatives are: the mean cosine of a row's query and another row's positive.

    Args:
        queries, gallery: [Q, D] and [N, D] unit vectors.
        query, positive: [R] int64, each row's places in them.
        groups: [R] int64, which rows share a batch.

    Returns it for pairs within a group, and for all pairs of different rows. Pairs are not formed: the mean of all
    products of two sets is the product of their sums.
    """
    order, starts = _members(groups)
    inside = pairs = own = 0.0
    total_query, total_positive = np.zeros(queries.shape[1]), np.zeros(queries.shape[1])
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        rows = order[start:end]
        asked, answers = queries[query[rows]].astype(np.float64), gallery[positive[rows]].astype(np.float64)
        self_product = float((asked * answers).sum())
        inside += float(asked.sum(0) @ answers.sum(0)) - self_product
        pairs += len(rows) * (len(rows) - 1)
        own += self_product
        total_query += asked.sum(0)
        total_positive += answers.sum(0)
    count = len(query)
    everything = float(total_query @ total_positive) - own
    return inside / max(1.0, pairs), everything / max(1, count * (count - 1))
