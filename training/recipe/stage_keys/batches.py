"""The batches of a stage: how large, in which pieces, and which rows share one."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ..section import MOST_STEPS, Section


class BatchKeys(Section):
    """The keys of a stage that say how its batches are made."""

    batch_size: int = Field(
        default=64,
        gt=1,
        le=10**7,
        description="rows a step, over all processes; each row's positive is a negative of the others",
    )
    chunk_tokens: int | Literal["auto"] = Field(
        default="auto", description="tokens alive at once; a larger batch is cut and computed twice (gradient caching)"
    )
    per_image: int = Field(
        default=1, gt=0, description="rows with one picture or source text that share a batch, each other's negatives"
    )
    per_cluster: int = Field(default=1, gt=0, description="rows of one cluster of the `mined` file that share a batch")
    per_source: int = Field(
        default=1, gt=0, description="rows of one source that share a batch: 1 mixes, batch_size keeps sources apart"
    )

    @field_validator("chunk_tokens", mode="before")
    @classmethod
    def _auto_or_tokens(cls, value: Any) -> Any:
        if value != "auto" and (type(value) is not int or not 1 <= value <= MOST_STEPS):
            raise ValueError(f"must be auto or a number of tokens from 1 on, not {value!r}")
        return value

    @model_validator(mode="after")
    def _neighbours_fill_batches(self) -> BatchKeys:
        for name in ("per_image", "per_cluster", "per_source"):
            if self.batch_size % getattr(self, name):
                raise ValueError(f"{name} {getattr(self, name)} must divide batch_size {self.batch_size}")
        return self
