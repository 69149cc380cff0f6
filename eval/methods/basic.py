"""BASIC: picture and words apart, centred, the picture without what words vary by, and multiplied."""

from __future__ import annotations

import numpy as np

from mllm_embed.vectors.fusion import weighted

from ..studies.method import Method, MethodContext, Ranking

_COMPONENTS = 250  # as in its code


def basic(context: MethodContext, *, contrast: float = 0.2, harris: float = 0.1, depth: int = 1000) -> Ranking:
    """s t - l (s + t)^2 for the first answers of v + t; s and t: centred scores of picture and words, 0 the least."""
    gallery = context.gallery.astype(np.float64)
    middle, words_middle = gallery.mean(axis=0), context.text.mean(axis=0, dtype=np.float64)
    centred, words = gallery - middle, context.text - words_middle
    pictures = (context.image - middle) @ contrastive_projection(centred, words, contrast)

    def rescore(answers: np.ndarray) -> np.ndarray:
        scores = np.full(answers.shape, -np.inf)
        for picture, word, row, out in zip(pictures, words, answers, scores, strict=True):
            there = row >= 0
            s, t = _above_least(centred @ picture)[row[there]], _above_least(centred @ word)[row[there]]
            out[there] = s * t - harris * (s + t) ** 2
        return scores

    queries = weighted((1, context.image), (1, context.text))
    return Ranking(queries, context.gallery, min(int(depth), len(gallery)), rescore)


def contrastive_projection(wanted: np.ndarray, unwanted: np.ndarray, contrast: float) -> np.ndarray:
    """Return the projection [D, D] on the directions that `wanted` [N, D] varies by more than `unwanted` [M, D].

    Those are the eigenvectors of (1 - a) S_wanted - a S_unwanted, S the scatter matrices, whose eigenvalues are
    positive, at most 250 of them, the largest first. Both are centred.
    """
    scatter = [rows.T @ rows / max(len(rows) - 1, 1) for rows in (wanted, unwanted)]
    values, vectors = np.linalg.eigh((1 - contrast) * scatter[0] - contrast * scatter[1])
    chosen = vectors[:, values > 0][:, -_COMPONENTS:]  # eigenvalues ascend
    return chosen @ chosen.T


def _above_least(scores: np.ndarray) -> np.ndarray:
    """Return scores [N] of a centred gallery, whose mean is 0, moved to a least of 0 and scaled to a mean of 1."""
    least = min(scores.min(), -np.finfo(np.float64).tiny)
    return (scores - least) / -least


METHOD = Method(
    basic,
    source="BASIC (arXiv 2510.25387, billpsomas/icir@463cc1d, utils_retrieval.py), its contrast and lambda, without "
    "query expansion; its lists of words and generated pictures are none of ours: what varies is told by the gallery "
    "and the instructions at hand, and each query's scores start at their own least",
    needs="two encodings instead of one; the instructions of all queries, which one query alone does not have",
    grid={"contrast": (0.0, 0.2, 0.4), "harris": (0.0, 0.1)},
)
