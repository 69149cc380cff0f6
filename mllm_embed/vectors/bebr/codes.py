"""Codes of several levels of bits, and their cosines by counting bits.

A code is a point b = b_0 + b_1 / 2 + b_2 / 4 + ... of a grid, each b_u a vector of signs (BEBR, arXiv 2302.08714), kept
as uint8 [N, levels, bits / 8], a bit of 1 for +1. An inner product of two codes is a sum over pairs of levels, of which
each is <b_u, c_v> = bits - 2 x (number of bits that differ), weighed by 2^-u 2^-v: the paper's symmetric distance. Its
kernel looks 4-bit numbers up in registers; here FAISS counts bits, which gives the same numbers.
"""

from __future__ import annotations

import faiss
import numpy as np

_COUNTS = 1 << 21  # of bits, or decoded numbers, at a time: 8 MB
_MANY = 16  # queries from which it is faster to decode rows once than to count for each
_EXACT = 1 << 24  # whole numbers below it are exact in float32


def pack(numbers: np.ndarray) -> np.ndarray:
    """Return the codes [N, levels, bits / 8] uint8 of the signs of numbers [N, levels, bits]; that of 0 is -1."""
    return np.packbits(numbers > 0, axis=2)


def signs(codes: np.ndarray) -> np.ndarray:
    """Return the signs, 1 and -1, of codes [N, levels, bytes]: [N, levels, bits] float32."""
    return np.unpackbits(codes, axis=2).astype(np.float32) * 2 - 1


def points(codes: np.ndarray) -> np.ndarray:
    """Return what codes [N, levels, bytes] stand for, of no certain length: [N, bits] float32."""
    return np.einsum("nlb,l->nb", signs(codes), np.float32(0.5) ** np.arange(codes.shape[1], dtype=np.float32))


def lengths(codes: np.ndarray) -> np.ndarray:
    """Return the lengths [N] float32 of codes [N, levels, bytes], in units of the last level, by counting bits."""
    levels = codes.shape[1]
    squares = np.zeros(len(codes), np.int64)
    for one in range(levels):
        for other in range(levels):
            differ = np.bitwise_count(codes[:, one] ^ codes[:, other]).sum(axis=1, dtype=np.int64)
            squares += (8 * codes.shape[2] - 2 * differ) << (2 * (levels - 1) - one - other)
    return np.sqrt(squares).astype(np.float32)


def cosines(queries: np.ndarray, rows: np.ndarray, rows_lengths: np.ndarray | None = None) -> np.ndarray:
    """Return the cosines [Q, N] float32 of codes; inner products are whole numbers, so exact.

    Args:
        queries: [Q, levels, bytes] uint8.
        rows: [N, levels, bytes] uint8.
        rows_lengths: `lengths` of the rows, where they are known.
    """
    found = np.empty((len(queries), len(rows)), np.float32)
    levels, bits = rows.shape[1], 8 * rows.shape[2]
    most = bits * ((1 << levels) - 1) ** 2
    products = _multiplied if len(queries) >= _MANY and most < _EXACT else _counted
    step = max(1, _COUNTS // max(bits * levels, len(queries) * levels))
    for at in range(0, len(rows), step):
        found[:, at : at + step] = products(queries, rows[at : at + step])
    scale = lengths(rows) if rows_lengths is None else rows_lengths
    return found / (lengths(queries)[:, None] * scale)


def _counted(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the inner products [Q, n] int32 of codes, in units of the last level squared, by counting bits."""
    levels, width = rows.shape[1:]
    asked = np.ascontiguousarray(queries).reshape(-1, width)
    # in units of the last level all numbers are whole: level u weighs 2^(levels - 1 - u)
    weights = 1 << np.arange(levels - 1, -1, -1, dtype=np.int32)
    inner = np.full((len(queries), len(rows)), 8 * width * int(weights.sum()) ** 2, np.int32)
    differ = np.empty((len(queries), levels, len(rows)), np.int32)
    for other, factor in enumerate(weights):
        level = np.ascontiguousarray(rows[:, other])
        pointers = (faiss.swig_ptr(asked), faiss.swig_ptr(level))
        faiss.hammings(*pointers, len(asked), len(level), width, faiss.swig_ptr(differ))
        for one, weight in enumerate(weights):
            inner -= differ[:, one] * (2 * weight * factor)
    return inner


def _multiplied(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return what `_counted` does as float32, whose sums of whole numbers are exact: faster for many queries."""
    unit = np.float32(1 << (rows.shape[1] - 1))
    return (unit * points(queries)) @ (unit * points(rows)).T
