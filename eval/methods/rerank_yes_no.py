"""Re-ranking by the language model: is this what was asked for, yes or no?"""

from __future__ import annotations

import numpy as np

from mllm_embed.generate.rerank import question

from ..studies.method import Method, MethodContext, Ranking


def rerank_yes_no(context: MethodContext, *, depth: int = 10) -> Ranking:
    """The first k answers by how much likelier the model says yes than no to reference, instruction and answer."""

    def rescore(answers: np.ndarray) -> np.ndarray:
        places = [(row, at) for row, found in enumerate(answers) for at in found if at >= 0]
        scores = np.full(answers.shape, -np.inf)
        asked = [question(context.task.queries[row][0], context.task.gallery[at].images) for row, at in places]
        scores[answers >= 0] = context.llm_texts.generator.yes_no_margin(asked)
        return scores

    return Ranking(context.composed, context.gallery, int(depth), rescore)


METHOD = Method(
    rerank_yes_no,
    source="MM-Embed (arXiv 2411.02571), its zero-shot re-ranking of the first 10",
    needs="one forward pass on two pictures for each of the first k; a model that knows yes and no",
    neutral={"depth": 0},
)
