"""Baseline: the reference picture without the instruction."""

from __future__ import annotations

from ..studies.method import Method, Ranking, Seen


def image_only(seen: Seen) -> Ranking:
    """The reference picture alone."""
    return Ranking(seen.image, seen.gallery)


METHOD = Method(image_only, source="the baselines of Pic2Word (arXiv 2302.03084)", needs="nothing more")
