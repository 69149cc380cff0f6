"""The composed query and CIReVL's text, mixed."""

from __future__ import annotations

from mllm_embed.vectors.fusion import weighted

from ..studies.method import Method, MethodContext, Ranking


def rewrite_fusion(context: MethodContext, *, weight: float = 0.5) -> Ranking:
    """(1 - w) q + w e(what the model says the changed picture shows), of unit length."""
    # the text is not even asked for: it would cost an answer a query
    if not weight:
        return Ranking(context.composed, context.gallery)
    return Ranking(weighted((1 - weight, context.composed), (weight, context.llm_texts.rewrites())), context.gallery)


METHOD = Method(
    rewrite_fusion,
    source="CIReVL (arXiv 2310.09291) as a second view",
    needs="one answer in words a query",
    neutral={"weight": 0.0},
    grid={"weight": (0.1, 0.2, 0.3, 0.5)},
)
