"""Composed image retrieval: a multimodal LLM as an instruction-aware embedding model."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# bitsandbytes, which peft imports wherever it is installed: one asks for a package that downloads a kernel (for a path
# that `quantization.cure` closes), the other repeats at every product that int8 goes through float16.
for _name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
    logging.getLogger(_name).setLevel(logging.ERROR)

if TYPE_CHECKING:
    from .encoder import MLLMEmbedder
    from .folder import DataFolder
    from .index import Index
    from .prompts import PromptSet
    from .search import Searcher
    from .store import VectorStore
    from .types import Document, Query

_HOMES = {
    "MLLMEmbedder": "encoder",
    "DataFolder": "folder",
    "Document": "types",
    "Index": "index",
    "PromptSet": "prompts",
    "Query": "types",
    "Searcher": "search",
    "VectorStore": "store",
}
__all__ = ["DataFolder", "Document", "Index", "MLLMEmbedder", "PromptSet", "Query", "Searcher", "VectorStore"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import mllm_embed` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
