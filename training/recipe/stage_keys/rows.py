"""Which rows a stage trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ...data.source import DataSource, LocalPath, Task
from ..section import Section


def _sources(value: Any) -> Any:
    """Return a tuple of sources: one may stand without a list, and a bare path for a data folder."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    return tuple({"path": entry} if isinstance(entry, (str, Path)) else entry for entry in listed)


Sources = Annotated[tuple[DataSource, ...], BeforeValidator(_sources), Field(min_length=1)]


class RowKeys(Section):
    """The keys of a stage that say which rows it trains on."""

    data: Sources = Field(
        description="a data folder, or a list of sources {path, format, ...}, relative to where you start"
    )
    rows: Literal["pairs", "triplets", "texts"] = Field(
        description="which of the folder's files to read: pairs, triplets or texts"
    )
    query_task: Task | None = Field(
        default=None,
        description="the task of what asks, for a model whose prompts have a place for one: Find a fashion image ...; "
        "rows' own and their source's go before it; by default that of the prompts",
    )
    document_task: Task | None = Field(default=None, description="the task of what is found, likewise")
    mined: LocalPath | None = Field(
        default=None, description="what `mllm-embed-train mine` wrote: hard negatives, clusters"
    )
    hard_negatives: int | None = Field(
        default=None,
        gt=0,
        le=10**6,
        description="so many of the hard negatives that a row has, the first; by default all",
    )
    max_unreadable: float = Field(
        default=0.01, ge=0, lt=1, description="share of unreadable rows that others replace; more of them end the run"
    )

    @property
    def streaming(self) -> bool:
        """Whether rows come nearly in the order of their shards."""
        return any(source.streaming for source in self.data)

    @property
    def where(self) -> str:
        """The paths of its sources, for a message."""
        return ", ".join(str(source.path) for source in self.data)
