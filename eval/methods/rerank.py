"""Re-ranking by a model that was trained to judge, or that is published as a re-ranker."""

from __future__ import annotations

from itertools import chain

import numpy as np

from mllm_embed.errors import ConfigError
from mllm_embed.types import Item

from ..studies.method import Method, MethodContext, Ranking


def rerank(context: MethodContext, *, depth: int = 10, weight: float = 0.0) -> Ranking:
    """The first k answers by the re-ranker's score, plus w times the cosine of the search."""

    def candidates(found: np.ndarray) -> list[Item]:
        return [context.task.gallery[at] for at in found if at >= 0]

    def rescore(answers: np.ndarray) -> np.ndarray:
        if context.reranker is None:
            raise ConfigError("there is no re-ranker: give one (--reranker)")
        task = context.task
        lists = [(query[0], candidates(found)) for query, found in zip(task.queries, answers, strict=True)]
        # where there is no answer, -1 takes some row: `Ranking` never looks at its score
        scores = weight * np.einsum("qd,qkd->qk", context.composed, context.gallery[answers])
        scores[answers >= 0] += list(chain.from_iterable(context.reranker.scores_of(lists)))
        return scores

    return Ranking(context.composed, context.gallery, int(depth), rescore)


METHOD = Method(
    rerank,
    source="LamRA (arXiv 2412.01720), its pointwise re-ranking, which adds both scores",
    needs="a re-ranker (--reranker), and one forward pass of it on both pictures for each of the first k",
    neutral={"depth": 0},
    grid={"weight": (0.0, 10.0, 30.0, 100.0, 300.0)},  # of differences of logits, whose size is each re-ranker's own
)
