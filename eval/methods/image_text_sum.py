"""Baseline: picture and instruction encoded apart and added."""

from __future__ import annotations

from mllm_embed.vectors.fusion import weighted

from ..studies.method import Method, MethodContext, Ranking


def image_text_sum(context: MethodContext) -> Ranking:
    """v + t, of unit length."""
    return Ranking(weighted((1, context.image), (1, context.text)), context.gallery)


METHOD = Method(
    image_text_sum, source="the baselines of Pic2Word (arXiv 2302.03084)", needs="two encodings instead of one"
)
