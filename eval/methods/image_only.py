"""Baseline: the reference picture without the instruction."""

from __future__ import annotations

from ..studies.method import Method, MethodContext, Ranking


def image_only(context: MethodContext) -> Ranking:
    """The reference picture alone."""
    return Ranking(context.image, context.gallery)


METHOD = Method(image_only, source="the baselines of Pic2Word (arXiv 2302.03084)", needs="nothing more")
