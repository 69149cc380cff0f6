"""Baseline: the instruction without the picture."""

from __future__ import annotations

from ..studies.method import Method, MethodContext, Ranking


def text_only(seen: MethodContext) -> Ranking:
    """The instruction alone."""
    return Ranking(seen.text, seen.gallery)


METHOD = Method(text_only, source="the baselines of Pic2Word (arXiv 2302.03084)", needs="nothing more")
