"""The head by which a base model speaks: hidden states to the logits of the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..loading import load_speaking

if TYPE_CHECKING:
    from ..embedding_model import EmbeddingModel


def give_head(model: EmbeddingModel, name: str, revision: str | None) -> None:
    """Give a model the head of its base, frozen, where it has none yet.

    The base is read whole for it, once and on the CPU. A head that is the matrix of the embeddings is that of the model
    itself, and takes no memory. Raises ModelError for a base without a head in its files.
    """
    if model.language_head is not None:
        return
    base: Any = model.base
    whole = load_speaking(name, revision, base.dtype)
    head, own = whole.get_output_embeddings(), base.get_input_embeddings().weight
    if head.weight is whole.get_input_embeddings().weight:
        with torch.device("meta"):
            shared = nn.Linear(own.shape[1], own.shape[0], bias=False)
        shared.weight, head = own, shared
    model.language_head = head.to(own.device).requires_grad_(False)
