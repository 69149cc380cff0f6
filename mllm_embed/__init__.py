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
    from .data.folder import DataFolder
    from .encode.embedder import MLLMEmbedder
    from .index.faiss_index import Index
    from .inputs.prompts import PromptSet
    from .search.searcher import Searcher
    from .store.vector_store import VectorStore
    from .types import Document, Query

_HOMES = {
    "MLLMEmbedder": "encode.embedder",
    "DataFolder": "data.folder",
    "Document": "types",
    "Index": "index.faiss_index",
    "PromptSet": "inputs.prompts",
    "Query": "types",
    "Searcher": "search.searcher",
    "VectorStore": "store.vector_store",
}
__all__ = ["DataFolder", "Document", "Index", "MLLMEmbedder", "PromptSet", "Query", "Searcher", "VectorStore"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import mllm_embed` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
