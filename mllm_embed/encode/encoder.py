"""The protocols of an embedder, as the rest of the library asks for one: `MLLMEmbedder`, `DualEncoder`, or one's own.

Search needs vectors alone (`Encoder`); evaluation exchanges the prompts too (`PromptedEncoder`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import ConfigError
from ..inputs.prompts import PromptSet

if TYPE_CHECKING:
    from ..vectors.multi import MultiVectors


class Encoder(Protocol):
    """Items in, vectors out."""

    def encode(self, inputs: Sequence[Any], *, batch_size: int = 32, show_progress: bool | None = None) -> np.ndarray:
        """Return unit vectors [N, D] float32, one for each of what `types.as_item` reads, in the order given.

        From that of a query that avoids something this is taken already: `avoiding.apart` helps with it.
        """
        ...


class PromptedEncoder(Encoder, Protocol):
    """An encoder whose prompts can be exchanged."""

    @property
    def prompts(self) -> PromptSet:
        """The prompts that are asked now."""
        ...

    def with_prompts(self, prompts: PromptSet) -> PromptedEncoder:
        """Return the same model asked through other prompts; this one stays as it is."""
        ...


def is_multi(encoder: object) -> bool:
    """Return whether an encoder makes several vectors of an input, so that `encode_multi` encodes (mixins/multi.py)."""
    return getattr(encoder, "multi", False)


def several_of(encoder: object, inputs: Sequence[Any], **options: Any) -> MultiVectors:
    """Return what `encode_multi` of an encoder does. Raises ConfigError for one that has not got it."""
    encode: Callable[..., MultiVectors] | None = getattr(encoder, "encode_multi", None)
    if encode is None:
        raise ConfigError("an encoder of several vectors an input needs `encode_multi`, as MLLMEmbedder has it")
    return encode(inputs, **options)


def check_single(encoder: object, use: str) -> None:
    """Raise ConfigError for an encoder that makes several vectors of an input, for a `use` that takes one."""
    if is_multi(encoder):
        raise ConfigError(
            f"{use} takes one vector an input, and this model makes one a token (pooling multi); take a model of "
            "single vectors"
        )


def check_unit_length(encoder: object, use: str) -> None:
    """Raise ConfigError for an encoder that cuts vectors without bringing them to unit length again, for a `use` that
    ranks by inner products, in which longer ones would win."""
    if not getattr(encoder, "unit_length", True):
        raise ConfigError(
            f"{use} ranks by inner products of unit vectors, and this model leaves those that it cuts shorter "
            "(renormalize: false); set renormalize: true, which changes no cosine, or keep whole vectors"
        )
