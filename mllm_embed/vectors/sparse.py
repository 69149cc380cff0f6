"""Sparse vectors: a weight for each of a few words of a vocabulary, as rows of scipy's CSR."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from .unit import unit


def sparse_rows(weights: np.ndarray, words: np.ndarray, vocabulary: int) -> csr_array:
    """Return sparse vectors [N, V] float32 of unit length, the words of each in order; a row of zeros stays one.

    Args:
        weights: [N, K] float32, 0 or more.
        words: [N, K] int64, each once in a row: the word of each weight.
        vocabulary: V.
    """
    order = words.argsort(axis=1)
    sorted_words, kept = np.take_along_axis(words, order, 1), unit(np.take_along_axis(weights, order, 1))
    there = kept > 0
    starts = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    shape = (len(weights), vocabulary)
    return csr_array((kept[there], sorted_words[there].astype(np.int32), starts.astype(np.int64)), shape=shape)


def no_rows(vocabulary: int, count: int = 0) -> csr_array:
    """Return so many empty sparse vectors [count, V] float32."""
    return csr_array((count, vocabulary), dtype=np.float32)
