"""How near queries and candidates are, and how a loss of that pulls at their vectors: of one vector an input the
cosine, of several MaxSim.

Several vectors an input are [N, T, D], zeros behind the last of an input with fewer than T, as a model's forward pass
gives them: no unit vector is all zeros, so that they say themselves what is there, and travel as single ones do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PRODUCTS = 1 << 24  # of vectors at a time, for MaxSim: 64 MB of float32


def fitting(tile: tuple[int, int], queries: Tensor, candidates: Tensor) -> tuple[int, int]:
    """Return how many queries and candidates are compared at a time: of several vectors an input fewer than `tile`."""
    if queries.dim() == 2:
        return tile
    pairs = max(1, PRODUCTS // max(1, queries.shape[1] * candidates.shape[1]))
    rows = min(tile[0], len(queries), math.isqrt(pairs))
    return max(1, rows), max(1, min(tile[1], pairs // max(1, rows)))


class _Cosines:
    """Inner products of unit vectors, of queries [R, D] and candidates [C, D]."""

    def __init__(self, queries: Tensor, candidates: Tensor):
        self._queries, self._candidates = queries, candidates
        self.scores = queries @ candidates.T

    def to_queries(self, steps: Tensor) -> Tensor:
        """Return the gradient for the queries of a loss with the gradient `steps` [R, C] for the scores."""
        return steps @ self._candidates

    def to_candidates(self, steps: Tensor) -> Tensor:
        """Return the same for the candidates."""
        return steps.T @ self._queries


class _MaxSims:
    """MaxSim of queries [R, T, D] and candidates [C, S, D], as of `mllm_embed.vectors.maxsim`: the mean over a query's
    vectors of the largest product with one of the candidate's. Of several that are largest the first gets the gradient.
    """

    def __init__(self, queries: Tensor, candidates: Tensor):
        self._queries, self._candidates = queries, candidates
        there = queries.any(-1)
        self._weights = there.to(queries.dtype) / there.sum(1, keepdim=True)
        products = queries.flatten(0, 1) @ candidates.flatten(0, 1).T
        self._shape = (*queries.shape[:2], *candidates.shape[:2])
        products = products.view(self._shape).masked_fill_(~candidates.any(-1), float("-inf"))
        largest, self._nearest = products.max(-1)
        self.scores = (largest * self._weights[..., None]).sum(1)

    def to_queries(self, steps: Tensor) -> Tensor:
        """As of `_Cosines`."""
        found = self._of_products(steps) @ self._candidates.flatten(0, 1)
        return found.view(self._queries.shape)

    def to_candidates(self, steps: Tensor) -> Tensor:
        """As of `_Cosines`."""
        found = self._of_products(steps).T @ self._queries.flatten(0, 1)
        return found.view(self._candidates.shape)

    def _of_products(self, steps: Tensor) -> Tensor:
        """Return the gradient [R T, C S] for the products: of each query's vector and candidate one is not 0."""
        rows, tokens, columns, others = self._shape
        share = steps[:, None] * self._weights[..., None]
        of_products = steps.new_zeros(self._shape).scatter_(3, self._nearest[..., None], share[..., None])
        return of_products.view(rows * tokens, columns * others)


def compare(queries: Tensor, candidates: Tensor) -> _Cosines | _MaxSims:
    """Compare all queries with all candidates: `scores` [R, C], and what pulls at either side.

    Args:
        queries: [R, D] float, L2-normalised, or [R, T, D].
        candidates: [C, D] or [C, S, D], alike.
    """
    return _Cosines(queries, candidates) if queries.dim() == 2 else _MaxSims(queries, candidates)


def scores_of_pairs(queries: Tensor, candidates: Tensor) -> Tensor:
    """Return the scores [B] of each query, [B, D] or [B, T, D], with the candidate at its place."""
    if queries.dim() == 2:
        return (queries * candidates).sum(1)
    pairs = zip(queries.split(1), candidates.split(1), strict=True)  # all with all of many would be too much
    return torch.cat([compare(*pair).scores[0] for pair in pairs] or [queries.new_zeros(0)])


def as_one(vectors: Tensor) -> Tensor:
    """Return one vector an input, [N, D] L2-normalised: of several the direction of their sum, of one itself."""
    return vectors if vectors.dim() == 2 else torch.nn.functional.normalize(vectors.sum(1), dim=-1)
