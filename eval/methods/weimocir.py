"""WeiMoCIR: picture and instruction weighted, against pictures and, with the reference's captions, against captions."""

from __future__ import annotations

import numpy as np

from mllm_embed.errors import ConfigError
from mllm_embed.vectors.fusion import weighted

from ..studies.method import Method, MethodContext, Ranking


def weimocir(context: MethodContext, *, alpha: float = 0.8, beta: float = 0.1) -> Ranking:
    """(1 - b) cos((1 - a) v + a t, g) + b mean_k cos((1 - a) c_k + a t, c_k of g), c_k captions of v."""
    if not 0 <= beta <= 1:
        raise ConfigError(f"beta is a share from 0 to 1, not {beta}")
    queries = weighted((1 - alpha, context.image), (alpha, context.text))
    if not beta:
        return Ranking(queries, context.gallery)
    captions, described = context.llm_texts.caption_pairs()
    share = beta / len(captions)
    asked = [share * weighted((1 - alpha, own), (alpha, context.text)) for own in described]
    # side by side, so that one inner product is the whole sum
    return Ranking(_beside([(1 - beta) * queries, *asked]), _beside([context.gallery, *captions]))


def _beside(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts, axis=1).astype(np.float32)


METHOD = Method(
    weimocir,
    source="WeiMoCIR (arXiv 2409.04918) as its released code has it (whats2000/WeiMoCIR@56aee3b, src/validate.py: "
    "captions are asked with those of the reference); alpha and beta are its command for CLIP ViT-G",
    needs="two encodings instead of one; captions of the gallery, once, and of the reference",
    grid={"alpha": (0.5, 0.65, 0.8, 0.95), "beta": (0.1, 0.2, 0.3, 0.5)},
)
