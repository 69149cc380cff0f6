"""Training a faiss.Index, rotations and product codes among them, in bounded time and of however few rows."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

_OPQ_SAMPLE, _OPQ_ROUNDS = 16_384, 10
_CODE_BITS = 8  # of product quantisation: FAISS' own, unless a factory says others


def train_index(index: Any, sample: np.ndarray) -> None:
    """Train a faiss.Index on rows [S, D] float32."""
    coder = _coder(index)
    lists, codes = faiss.try_extract_index_ivf(index), getattr(coder, "pq", None)
    rotations, rotated = _rotations(index), []
    for rotation in rotations:  # its own settings take hours for a thousand dimensions
        rotation.niter, rotation.max_train_points = _OPQ_ROUNDS, _OPQ_SAMPLE
        rotated.append(faiss.ProductQuantizer(rotation.d_out, rotation.M, _CODE_BITS))
        rotation.pq = rotated[-1]
    for part in filter(None, (lists, codes, *rotated)):
        part.cp.min_points_per_centroid = 1  # FAISS prints a line for each clustering of fewer
    # a centroid for each code, and a row for each dimension, below which FAISS' rotation dies: each of too few rows
    # is given several times
    least = max(1 << _CODE_BITS, index.d) if codes else 1
    index.train(np.resize(sample, (max(len(sample), least), sample.shape[1])))
    for rotation in rotations:
        rotation.pq = None  # FAISS keeps a bare pointer to what goes now


def _coder(index: Any) -> Any:
    """Return what makes codes behind the rotations of an index: its inverted lists, or itself."""
    lists = faiss.try_extract_index_ivf(index)
    if lists:
        return faiss.downcast_index(lists)
    inner = faiss.downcast_index(index)
    return faiss.downcast_index(inner.index) if isinstance(inner, faiss.IndexPreTransform) else inner


def _rotations(index: Any) -> list[Any]:
    """Return the rotations that product quantisation learns in front of an index."""
    outer = faiss.downcast_index(index)
    if not isinstance(outer, faiss.IndexPreTransform):
        return []
    chain = [faiss.downcast_VectorTransform(outer.chain.at(at)) for at in range(outer.chain.size())]
    return [step for step in chain if isinstance(step, faiss.OPQMatrix)]
