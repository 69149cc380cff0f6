"""Composed image retrieval: a multimodal LLM as an instruction-aware embedding model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .data.folder import DataFolder
    from .encode.embedder import MLLMEmbedder
    from .index.faiss_index import Index
    from .inputs.prompts import PromptSet
    from .rerank.reranker import Reranker
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
    "Reranker": "rerank.reranker",
    "Searcher": "search.searcher",
    "VectorStore": "store.vector_store",
}
__all__ = [
    "DataFolder", "Document", "Index", "MLLMEmbedder", "PromptSet", "Query", "Reranker", "Searcher", "VectorStore",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import mllm_embed` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, which are not there before they are used."""
    return sorted([*__all__, "__version__"])
