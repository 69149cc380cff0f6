"""A result.json of `mllm-embed-eval`, looked at as a whole before a figure of it stands on a card or in a table."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import DataError
from ..files import read_json

RESULT_FILE = "result.json"

READ = {
    "jpeg_side": "JPEGs decoded down to a side of",
    "truncate": "words cut at a limit of tokens",
    "thoughts": "tokens that a query thinks first, at most",
}
"""Settings of a model's own that decide what is read of an input, by their names in a provenance -> what a result says
of them, where they are set."""


class _Part(BaseModel):
    # strict: "12.5" is no figure, and true no count
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Figure(_Part):
    percent: float
    low: float | None = None
    high: float | None = None


class _Interval(_Part):
    percent: float
    low: float
    high: float


class _Gap(_Part):
    better_half: str = Field(alias="better half")
    gap: _Interval


class _Labelled(_Interval):
    queries: Annotated[int, Field(ge=0)]
    composed: _Interval | None = None


class _Audit(_Gap):
    found_by: Annotated[dict[str, _Labelled], Field(alias="found by", min_length=1)]


Rows = dict[str, Annotated[dict[str, _Figure], Field(min_length=1)]]
"""Row of a table -> metric -> figure."""


class _Task(_Part):
    queries: Annotated[int, Field(ge=1)]
    gallery: Annotated[int, Field(ge=1)]
    rows: Annotated[Rows, Field(min_length=1)]
    composition: dict[str, _Audit] = {}


class _About(_Part):
    name: str
    title: str
    fingerprint: str
    printed: list[str] = []


class _Result(_Part):
    benchmark: _About
    tasks: Annotated[dict[str, _Task], Field(min_length=1)]
    means: Rows = {}
    parts: dict[str, list[str]] = Field(default={}, alias="means of")
    composition: dict[str, _Gap] = {}
    protocol: dict[str, Any] = {}
    model: str | None = None
    adapter: str | None = None

    @model_validator(mode="after")
    def _names_figures_that_are_there(self) -> _Result:
        first = {name: next(iter(task.rows.values())) for name, task in self.tasks.items()}
        metrics = set(chain.from_iterable(first.values()))
        known = metrics | {f"{task}/{metric}" for task, own in first.items() for metric in own}
        missing = [name for name in self.benchmark.printed if name not in metrics]
        for mean, parts in self.parts.items():  # of figures, or of means before it
            missing += [part for part in parts if part not in known]
            known.add(mean)
        if missing:
            raise ValueError(f"there is no figure of {missing[0]}")
        return self

    @model_validator(mode="after")
    def _audits_figures_that_are_there(self) -> _Result:
        missing = [mean for mean in self.composition if mean not in self.parts]
        for task in self.tasks.values():
            first = next(iter(task.rows.values()))
            missing += [metric for metric in task.composition if metric not in first]
        if missing:
            raise ValueError(f"there is no figure of {missing[0]}, of which it has a composition gap")
        return self


def read_result_file(path: Path, cure: str) -> dict[str, Any]:
    """Return the content of a result.json, in which every entry that is read is there and of its type.

    Args:
        path: the file.
        cure: what the user can do where it is none, for the error.

    Raises:
        DataError: the file cannot be read, or holds anything else.
    """
    content = read_json(path, cure)
    try:
        _Result.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        wrong = f"{where}: {first['msg']}" if where else first["msg"]
        raise DataError(f"{path} is no result of this version ({wrong}): {cure}") from error
    result: dict[str, Any] = content
    return result
