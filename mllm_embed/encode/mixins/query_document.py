"""The two sides of a search by the names that sentence-transformers' users know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, overload

import numpy as np
import torch

from ...inputs.plain_values import items_of
from ...types import as_document, as_query, with_task
from ...vectors.precision import Precision, cosines


class _Encodes(Protocol):
    """What the mixin stands on."""

    def encode(self, *args: Any, **options: Any) -> Any:
        """Return vectors [N, D]."""


class QueryDocument:
    """A mixin that gives `encode` the names of a search's two sides, and compares their vectors."""

    @overload
    def encode_query(
        self, inputs: Sequence[Any], *, batch_size: int = ..., dim: int | None = ..., precision: Precision = ...,
        packed: bool = ..., show_progress: bool | None = ..., unreadable: dict[int, str] | None = ...,
        task: str | None = ..., convert_to: Literal["numpy"] = ...,
    ) -> np.ndarray: ...  # fmt: skip

    @overload
    def encode_query(
        self, inputs: Sequence[Any], *, batch_size: int = ..., dim: int | None = ..., precision: Precision = ...,
        packed: bool = ..., show_progress: bool | None = ..., unreadable: dict[int, str] | None = ...,
        task: str | None = ..., convert_to: Literal["torch"],
    ) -> torch.Tensor: ...  # fmt: skip

    def encode_query(
        self: _Encodes, inputs: Sequence[Any], *, task: str | None = None, **options: Any
    ) -> np.ndarray | torch.Tensor:
        """Return the vectors [N, D] of queries; options, errors and all else as of `encode`.

        A dict with image and text is a picture and what to change in it, as for sentence-transformers. `task` is that
        of all queries which have none of their own ("Find a fashion image that matches the description.").
        """
        return self.encode([with_task(item, task) for item in items_of(inputs, as_query)], **options)

    @overload
    def encode_document(
        self, inputs: Sequence[Any], *, batch_size: int = ..., dim: int | None = ..., precision: Precision = ...,
        packed: bool = ..., show_progress: bool | None = ..., unreadable: dict[int, str] | None = ...,
        task: str | None = ..., convert_to: Literal["numpy"] = ...,
    ) -> np.ndarray: ...  # fmt: skip

    @overload
    def encode_document(
        self, inputs: Sequence[Any], *, batch_size: int = ..., dim: int | None = ..., precision: Precision = ...,
        packed: bool = ..., show_progress: bool | None = ..., unreadable: dict[int, str] | None = ...,
        task: str | None = ..., convert_to: Literal["torch"],
    ) -> torch.Tensor: ...  # fmt: skip

    def encode_document(
        self: _Encodes, inputs: Sequence[Any], *, task: str | None = None, **options: Any
    ) -> np.ndarray | torch.Tensor:
        """Return the vectors [N, D] of the gallery; options, errors and all else as of `encode`.

        A dict with image and text is a picture with the text that belongs to it; one with an instruction is refused.
        `task` is as for `encode_query`.
        """
        return self.encode([with_task(item, task) for item in items_of(inputs, as_document)], **options)

    @overload
    @staticmethod
    def similarity(queries: np.ndarray, documents: np.ndarray | torch.Tensor) -> np.ndarray: ...

    @overload
    @staticmethod
    def similarity(queries: torch.Tensor, documents: np.ndarray | torch.Tensor) -> torch.Tensor: ...

    @staticmethod
    def similarity(
        queries: np.ndarray | torch.Tensor, documents: np.ndarray | torch.Tensor
    ) -> np.ndarray | torch.Tensor:
        """Return the cosines [Q, N] float32 of two sets of vectors [Q, D] and [N, D] from `encode`.

        Both have one length and precision; the result is of the queries' kind, on the CPU. Raises ConfigError for
        vectors of two lengths or precisions.
        """
        found = cosines(_as_numpy(queries), _as_numpy(documents))
        return torch.from_numpy(found) if isinstance(queries, torch.Tensor) else found


def _as_numpy(vectors: np.ndarray | torch.Tensor) -> np.ndarray:
    return vectors.numpy(force=True) if isinstance(vectors, torch.Tensor) else vectors
