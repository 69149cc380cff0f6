"""PDV's knob on our own vectors: the edit as a direction, walked less far or farther."""

from __future__ import annotations

from mllm_embed.vectors.fusion import edited

from ..studies.method import Method, MethodContext, Ranking


def edit_strength(context: MethodContext, *, strength: float = 0.8) -> Ranking:
    """v + a (q - v), of unit length: a = 1 is the plain query, more is a stronger edit."""
    return Ranking(edited(context.composed, context.image, strength), context.gallery)


METHOD = Method(
    edit_strength,
    source="PDV (arXiv 2502.07215), PDV-I; its a for CIRR and CIRCO is 1.4, where q comes of captions: with a trained "
    "q that loses, and the default is one that does not",
    needs="the picture's own vector",
    neutral={"strength": 1.0},
    grid={"strength": (0.6, 0.8, 1.0, 1.2, 1.4, 1.6)},
)
