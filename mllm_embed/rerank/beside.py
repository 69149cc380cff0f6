"""A second model on the tensors of a first: modules of its own, so that both are loaded at once and none changes what
the other computes, and not one weight of the base twice in memory."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

from torch import nn

from ..encode.embedder import MLLMEmbedder
from ..errors import ConfigError
from ..model.embedding_model import EmbeddingModel


def check_beside(embedder: MLLMEmbedder) -> str:
    """Return the name of an embedder's base, beside whose adapter another one may be put.

    Raises ConfigError where the base is not there any more, or was not read from files.
    """
    base = embedder.settings.base
    if base is None:
        raise ConfigError("of a model that was not loaded from files there is no head to read")
    if embedder.settings.adapter and not embedder.model.adapted:
        raise ConfigError("the embedder's adapter is merged into its base: load it apart, or load the re-ranker alone")
    return base


def bare_base(model: EmbeddingModel) -> Any:
    """Return a model's base without its adapter, as modules of its own on the very same tensors.

    Raises ConfigError for a base whose attention was made to look ahead.
    """
    if model.bidirectional:
        raise ConfigError("this model's attention looks ahead: it can embed, but no longer say yes or no")
    backbone: Any = model.backbone
    tensors = chain(backbone.parameters(), backbone.buffers())
    twin = copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors})
    return _without_adapter(twin) if model.adapted else twin


def _without_adapter(wrapped: Any) -> Any:
    """Return the base of a model that peft wrapped, with its own layers in their places again."""
    from peft.utils import ModulesToSaveWrapper

    for module in list(wrapped.modules()):
        for name, child in module.named_children():
            if isinstance(child, ModulesToSaveWrapper):  # which peft would put the trained copy in the place of
                setattr(module, name, child.original_module)
    base: nn.Module = wrapped.unload()
    return base
