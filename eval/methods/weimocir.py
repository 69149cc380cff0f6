"""WeiMoCIR's query: picture and instruction encoded apart, weighted."""

from __future__ import annotations

from mllm_embed.vectors.fusion import weighted

from ..studies.method import Method, MethodContext, Ranking


def weimocir(context: MethodContext, *, alpha: float = 0.65, beta: float = 0.0) -> Ranking:
    """(1 - a) v + a t, of unit length, on a gallery of pictures and, by b, their captions."""
    queries = weighted((1 - alpha, context.image), (alpha, context.text))
    return Ranking(queries, context.llm_texts.captioned_gallery(context.gallery, beta))


METHOD = Method(
    weimocir,
    source="WeiMoCIR (arXiv 2409.04918), equations of the query and of the fused score; alpha is its code's default",
    needs="two encodings instead of one; with beta captions of the gallery",
    grid={"alpha": (0.5, 0.65, 0.8, 0.95)},
)
