"""Re-ranking by the language model: how likely it would describe this answer as what was asked for."""

from __future__ import annotations

import numpy as np

from mllm_embed.generate.generator import Question

from ..studies.llm_texts import DESCRIBE
from ..studies.method import Method, MethodContext, Ranking


def rerank_caption(context: MethodContext, *, depth: int = 10, weight: float = 0.1) -> Ranking:
    """The first k answers by cosine plus w times the log-likelihood, a token, of the rewrite as their description."""

    def rescore(answers: np.ndarray) -> np.ndarray:
        wanted = context.llm_texts.rewritten()
        pairs = [
            (Question(DESCRIBE, context.task.gallery[at].images), wanted[row])
            for row, found in enumerate(answers)
            for at in found
            if at >= 0
        ]
        # where there is no answer, -1 takes some row: `Ranking` never looks at its score
        scores = np.einsum("qd,qkd->qk", context.composed, context.gallery[answers])
        scores[answers >= 0] += weight * np.array(context.llm_texts.generator.log_likelihood(pairs))
        return scores

    return Ranking(context.composed, context.gallery, int(depth), rescore)


METHOD = Method(
    rerank_caption,
    source="VQAScore's reading of a generator as a scorer (arXiv 2404.01291), on CIReVL's rewrite",
    needs="one answer in words a query, and one forward pass for each of the first k",
    neutral={"depth": 0},
    grid={"weight": (0.02, 0.05, 0.1, 0.2, 0.5)},
)
