"""WeiMoCIR's second term on the composed query: the gallery's pictures and, by a share, their captions."""

from __future__ import annotations

from ..studies.method import Method, MethodContext, Ranking


def caption_fusion(context: MethodContext, *, beta: float = 0.2) -> Ranking:
    """(1 - b) cos(q, g) + b mean cos(q, captions of g), as one product with a mixed gallery."""
    return Ranking(context.composed, context.llm_texts.captioned_gallery(context.gallery, beta))


METHOD = Method(
    caption_fusion,
    source="WeiMoCIR (arXiv 2409.04918), fused score; beta is its command for BLIP",
    needs="a caption of every gallery picture, once",
    neutral={"beta": 0.0},
    grid={"beta": (0.1, 0.2, 0.3, 0.5)},
)
