"""Baseline: the point between picture and instruction on the sphere."""

from __future__ import annotations

from mllm_embed.vectors.fusion import slerp

from ..studies.method import Method, MethodContext, Ranking


def image_text_slerp(context: MethodContext, *, share: float = 0.5) -> Ranking:
    """The point of the arc from the picture (0) to the instruction (1)."""
    return Ranking(slerp(context.image, context.text, share), context.gallery)


METHOD = Method(
    image_text_slerp,
    source="Slerp (arXiv 2405.00571)",
    needs="two encodings instead of one",
    grid={"share": (0.2, 0.35, 0.5, 0.65, 0.8)},
)
