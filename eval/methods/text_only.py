"""Baseline: the instruction without the picture."""

from __future__ import annotations

from ..studies.method import Method, MethodContext, Ranking


def text_only(context: MethodContext) -> Ranking:
    """The instruction alone."""
    return Ranking(context.text, context.gallery)


METHOD = Method(text_only, source="the baselines of Pic2Word (arXiv 2302.03084)", needs="nothing more")
