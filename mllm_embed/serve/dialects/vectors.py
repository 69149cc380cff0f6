"""Vectors as an answer holds them: cut to a length, in fewer bits, as numbers or as base64."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from ...vectors.precision import to_precision, truncate
from ..refusals import Refusal
from ..service import Service

if TYPE_CHECKING:
    from ...encode.embedder import MLLMEmbedder

NumberType: TypeAlias = Literal["float", "int8", "uint8", "binary", "ubinary"]
VectorType: TypeAlias = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]
_MIDDLE = 128  # between the signed and the unsigned numbers of a byte


def check_dimensions(dimensions: int | None, service: Service, field: str) -> None:
    """Raise Refusal 400 for a length that vectors do not have, or that the model was not trained to be cut to."""
    whole, trained = service.embedder.dimension, service.embedder.settings.matryoshka
    if dimensions is None or dimensions == whole:
        return
    if not 1 <= dimensions <= whole:
        raise Refusal(400, f"{field} must be from 1 to {whole}, the length of a vector, not {dimensions}", field=field)
    if dimensions in trained or service.force_dimensions:
        return
    fitting = [str(length) for length in sorted({*trained, whole}) if length <= whole]
    raise Refusal(
        400,
        f"{field}={dimensions}: this model was not trained to be cut to that length, which costs quality unnoticed; "
        f"use {' or '.join(fitting)}, or leave it out",
        field=field,
    )


def shortened(vectors: np.ndarray, dimensions: int | None, embedder: MLLMEmbedder) -> np.ndarray:
    """Return whole vectors [N, D] float32 at the length asked for, or else the embedder's own: [N, d] float32."""
    return truncate(vectors, dimensions or embedder.dimension, embedder.settings.renormalize)


def written(vectors: np.ndarray, kind: VectorType) -> list[Any]:
    """Return vectors [N, D] float32 as a list of what stands in JSON for each: numbers, or of base64 a text.

    float: as they are. base64: those, packed. int8, ubinary: as `vectors.precision.to_precision` makes int8 and binary.
    uint8: int8 + 128. binary: the bytes of ubinary less 128, as Cohere, Jina and sentence-transformers have it.
    """
    return packed(vectors, "float") if kind == "base64" else _MAKERS[kind](vectors).tolist()


def packed(vectors: np.ndarray, kind: NumberType) -> list[Any]:
    """Return vectors [N, D] float32 as the base64 of each one's numbers: little-endian float32, or bytes."""
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in _MAKERS[kind](vectors)]


def _uint8(vectors: np.ndarray) -> np.ndarray:
    return (to_precision(vectors, "int8").astype(np.int16) + _MIDDLE).astype(np.uint8)


def _signed_bits(vectors: np.ndarray) -> np.ndarray:
    return (to_precision(vectors, "binary").astype(np.int16) - _MIDDLE).astype(np.int8)


_MAKERS: dict[NumberType, Callable[[np.ndarray], np.ndarray]] = {
    "float": lambda vectors: vectors.astype("<f4", copy=False),
    "int8": lambda vectors: to_precision(vectors, "int8"),
    "uint8": _uint8,
    "binary": _signed_bits,
    "ubinary": lambda vectors: to_precision(vectors, "binary"),
}
