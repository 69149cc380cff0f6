"""What a recipe says about one source of training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from mllm_embed.errors import did_you_mean

from .formats import FORMATS


def _local(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():  # Python would take it for the working folder
        raise ValueError("must not be empty; give a path")
    if isinstance(value, str) and "://" in value:
        raise ValueError("is a URL, and nothing is downloaded; give a path on this machine, where the files lie or go")
    return value


def _words(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty; give words, or leave it out")
    return value


Task = Annotated[str, AfterValidator(_words)]
LocalPath = Annotated[Path, Field(strict=False), BeforeValidator(_local)]  # a text is one


class DataSource(BaseModel):
    """One entry of a stage's `data`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True, str_min_length=1)

    path: LocalPath = Field(description="file, folder or glob pattern, relative to where you start; never a URL")
    format: str = Field(default="folder", description=f"how it is written: {', '.join(sorted(FORMATS))}")
    images: LocalPath | None = Field(
        default=None,
        description="folder that the names of pictures start from; by default that of the file itself, or the data "
        "folder",
    )
    pool: LocalPath | None = Field(
        default=None,
        description="the file that the rows' ids point into: M-BEIR's candidate pool, CIRR's image split; by default "
        "where the release has it",
    )
    tasks: LocalPath | None = Field(
        default=None,
        description="the file of task instructions: M-BEIR's query_instructions.tsv, by default where the release has "
        "it; for MMEB a text file, an instruction a line, of those that its texts begin with beside MMEB's own",
    )
    columns: dict[str, str] = Field(
        default={}, description="our column: theirs, where a file names it otherwise; all of them for format columns"
    )
    weight: float | None = Field(
        default=None, gt=0, description="its share of the rows beside the other sources; by default its size"
    )
    query_task: Task | None = Field(
        default=None,
        description="the task of its queries, for a model whose prompts have a place for one; by default the stage's",
    )
    document_task: Task | None = Field(default=None, description="the task of what is found, likewise")
    streaming: bool = Field(
        default=False, description="read shards nearly in their order, for data too large for reads all over the disk"
    )

    @field_validator("format")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in FORMATS:
            known = ", ".join(sorted(FORMATS))
            raise ValueError(f"'{value}' is none of the known formats: {known}{did_you_mean(value, FORMATS)}")
        return value
