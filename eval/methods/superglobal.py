"""SuperGlobal's re-ranking of the first answers by global vectors alone."""

from __future__ import annotations

import numpy as np

from ..studies.method import Method, MethodContext, Ranking


def superglobal(context: MethodContext, *, depth: int = 100, neighbours: int = 4, beta: float = 0.1) -> Ranking:
    """The first answers pulled to their neighbours, the query to the best of those; the mean of both scores."""
    depth = min(int(depth), len(context.gallery))

    def rescore(answers: np.ndarray) -> np.ndarray:
        scores = np.full(answers.shape, -np.inf)
        for query, row, out in zip(context.composed, answers, scores, strict=True):
            # a query that excludes much, or has few candidates, has fewer answers
            there = row >= 0
            out[there] = refined_scores(query, context.gallery[row[there]], int(neighbours), beta)
        return scores

    return Ranking(context.composed, context.gallery, depth, rescore)


def refined_scores(query: np.ndarray, answers: np.ndarray, neighbours: int, beta: float) -> np.ndarray:
    """Return the new scores [M] of answers [M, D] to a query [D], all float32.

    x' = (x + beta sum s_i x_i) / (1 + beta sum s_i) over the K nearest of the others; S1 = q . x'; q' is the
    elementwise maximum of the K + 1 x' highest by S1; the score is (S1 + q' . x') / 2. K counts as in its code
    (ShihaoShao-GH/SuperGlobal@8694696, modules/reranking), where both numbers are one setting.
    """
    products = answers @ answers.T
    # a picture is no neighbour of itself
    np.fill_diagonal(products, -np.inf)
    count = min(neighbours, len(answers) - 1)
    near = np.argsort(-products, axis=1, kind="stable")[:, :count]
    weights = beta * np.take_along_axis(products, near, axis=1)
    refined = answers + np.einsum("mk,mkd->md", weights, answers[near])
    refined /= 1 + weights.sum(axis=1, keepdims=True)
    first = refined @ query
    best = refined[np.argsort(-first, kind="stable")[: neighbours + 1]].max(axis=0)
    return (first + refined @ best) / 2


METHOD = Method(
    superglobal,
    source="SuperGlobal (ICCV 2023, arXiv 2308.06954), its re-ranking; narrower than its 400, 9 and 0.15, which are "
    "for landmarks",
    needs="nothing more",
    neutral={"depth": 0},
    grid={"beta": (0.05, 0.1, 0.15)},
)
