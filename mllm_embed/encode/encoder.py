"""The protocols of an embedder, as the rest of the library asks for one: `MLLMEmbedder`, `DualEncoder`, or one's own.

Search needs vectors alone (`Encoder`); evaluation exchanges the prompts too (`PromptedEncoder`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..inputs.prompts import PromptSet


class Encoder(Protocol):
    """Items in, vectors out."""

    def encode(self, inputs: Sequence[Any], *, batch_size: int = 32, show_progress: bool | None = None) -> np.ndarray:
        """Return unit vectors [N, D] float32, one for each of what `types.as_item` reads, in the order given."""
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
