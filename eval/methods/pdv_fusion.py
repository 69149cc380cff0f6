"""PDV-F: the edit as a direction on the picture's side and on the text's, mixed."""

from __future__ import annotations

import numpy as np

from mllm_embed.vectors.fusion import edited, weighted
from mllm_embed.vectors.unit import unit

from ..studies.method import Method, MethodContext, Ranking


def pdv_fusion(context: MethodContext, *, beta: float = 0.75, image: float = 1.0, text: float = 1.2) -> Ranking:
    """(1 - b) [v + a_I (q - v)] + b [d + a_T (r - d)], [] at unit length.

    d, r: texts of the picture as it is and as it should be.
    """
    composed = edited(context.composed, context.image, image)
    # the text is not even asked for: it would cost two answers a query
    if not beta:
        return Ranking(composed, context.gallery)
    described = context.llm_texts.descriptions().astype(np.float64)
    rewritten = unit(described + text * (context.llm_texts.rewrites() - described))
    return Ranking(weighted((1 - beta, composed), (beta, rewritten)), context.gallery)


METHOD = Method(
    pdv_fusion,
    source="PDV-F (arXiv 2502.07215), its defaults for CIRR and CIRCO but for the picture's side: there the edit is "
    "q - v, since our composed vector lies in the space of pictures, and is walked once, not 1.4 times",
    needs="two answers in words a query",
    neutral={"beta": 0.0, "image": 1.0},
    grid={"beta": (0.2, 0.4, 0.6, 0.8), "image": (1.0, 1.4), "text": (1.0, 1.4)},
)
