"""A preset: all that a published embedder's vectors depend on beside its weights, as its authors' code has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import ConfigError, did_you_mean
from ..inputs.prompt_files import read_keys
from ..inputs.prompts import TASK, PromptSet, Slot
from ..saving.settings import Settings

PROMPTS_ALONE = "write them with `mllm-embed prompt --preset {} > own.yaml` and give own.yaml as prompts"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PublishedModel(_Section):
    """A model that a preset is for."""

    id: str = Field(description="hub id")
    size: str = Field(default="", description="parameters, 2.2B say")
    dimension: int | None = Field(default=None, description="length of a vector")
    licence: str = Field(default="not stated", description="as its page or repository states it")


class Wording(_Section):
    """How a benchmark, or one of its tasks, is asked where that is not as by default."""

    query_task: str | None = Field(default=None, description="the task of its queries")
    document_task: str | None = Field(default=None, description="the task of its gallery")
    prompts: dict[str, Any] = Field(default={}, description="role -> prompt, as in a prompt set")
    options: dict[str, str] = Field(
        default={}, description="options of the benchmark that the authors' figures are for"
    )
    source: str = Field(default="", description="where that is from")


class _About(_Section):
    """The keys of a preset's file that do not say how its model is asked."""

    title: str = ""
    models: list[PublishedModel] = []
    model_types: Annotated[list[str], Field(min_length=1)]
    loads: Literal[
        "directly", "after `mllm-embed convert`", "directly, or where pickled after `mllm-embed convert adapter`"
    ] = "directly"
    settings: dict[str, Any] = {}
    image_processor: dict[str, Any] = {}
    dtype: Literal["float16", "bfloat16", "float32"] | None = None
    prompts_from: Literal["source", "inferred"] = "source"
    sources: list[str] = []
    uncertain: list[str] = []
    differs: list[str] = []


class _File(_About):
    """The keys of an embedder's preset."""

    prompts: dict[str, Any]
    benchmarks: dict[str, Wording] = {}


class RerankerFile(_About):
    """The keys of a re-ranker's preset."""

    prompt: dict[str, Any]


_Keys = TypeVar("_Keys", bound=_About)


@dataclass(frozen=True)
class Preset:
    """A published embedder, or several of one form.

    Args:
        name: of its file.
        title: what people call it.
        models: those that are published in this form.
        model_types: of transformers, that it is for.
        loads: how a model comes to be loaded.
        settings: prompts, pooling, positions and what else is saved with a model.
        image_processor: attributes of the model's image processor that its authors set.
        dtype: what the authors compute in; the checkpoint's where that is not known.
        benchmarks: how benchmarks, or their tasks ("fashioniq/dress"), are asked where that is not as by default.
        prompts_from: whether the prompts were read in the authors' code, or inferred.
        sources: where each fact is from.
        uncertain: what could not be read there.
        differs: in what vectors differ from those of the authors' code.
    """

    name: str
    title: str
    models: tuple[PublishedModel, ...]
    model_types: tuple[str, ...]
    loads: str
    settings: Settings
    image_processor: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    benchmarks: Mapping[str, Wording] = field(default_factory=dict)
    prompts_from: str = "source"
    sources: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()

    def check(self, model: str, model_type: str) -> None:
        """Raise ConfigError for a model of another family than the preset is for."""
        if model_type not in self.model_types:
            raise ConfigError(
                f"the preset {self.name} is for {' or '.join(self.model_types)} models, and {model} is a {model_type}; "
                f"give the preset of that model, or this one's prompts alone: {PROMPTS_ALONE.format(self.name)}"
            )


def read_preset(path: Path) -> Preset:
    """Return the preset in a YAML or JSON file. Raises ConfigError, which names the file and key, for a bad one."""
    file = parsed(path, _File)
    return about(path, file, _settings(path, file), file.benchmarks)


def parsed(path: Path, kind: type[_Keys]) -> _Keys:
    """Return the keys of a preset's file. Raises ConfigError, which names the file and key, for a bad one."""
    try:
        return kind.model_validate(read_keys(path, "preset"))
    except ValidationError as error:
        raise ConfigError(f"preset {path}: {_first(error, kind)}") from error


def about(path: Path, file: _About, settings: Settings, benchmarks: Mapping[str, Wording] | None = None) -> Preset:
    """Return the preset of a file's keys, with the settings that these say."""
    return Preset(
        name=path.stem, title=file.title or path.stem, models=tuple(file.models), model_types=tuple(file.model_types),
        loads=file.loads, settings=settings, image_processor=file.image_processor, dtype=file.dtype,
        benchmarks=benchmarks or {}, prompts_from=file.prompts_from, sources=tuple(file.sources),
        uncertain=tuple(file.uncertain), differs=tuple(file.differs),
    )  # fmt: skip


def _settings(path: Path, file: _File) -> Settings:
    """Return the settings and prompts in a preset's file. Raises ConfigError, by the section that is wrong."""
    where = ""  # prompts' own messages name the key
    try:
        prompts = PromptSet.from_dict({"name": path.stem, **file.prompts})
        where = "settings"
        settings = Settings.of_preset(prompts, file.settings)
        for name, wording in file.benchmarks.items():
            where = f"benchmarks.{name}"
            worded(prompts, name, wording)
    except ValueError as error:  # which begins with the key
        raise ConfigError(f"preset {path}: {where}{where and '.'}{error}") from error
    except ConfigError as error:
        raise ConfigError(f"preset {path}: {where}{where and ': '}{error}") from error
    return settings


def worded(prompts: PromptSet, name: str, wording: Wording) -> PromptSet:
    """Return a prompt set as a benchmark's wording has it.

    Raises ValueError for a role that no prompt set has, and for a task that the prompts have no place for.
    """
    values = prompts.to_dict() | wording.prompts
    for side in ("query_task", "document_task"):
        given = getattr(wording, side)
        values |= {} if given is None else {side: given}
    if values == prompts.to_dict():
        return prompts
    made = PromptSet.from_dict(values | {"name": f"{prompts.name} for {name}"})
    for side, slots in _ASKED.items():
        if getattr(wording, side) and not any(made.prompt(slot).has_task for slot in slots if slot in made.slots):
            raise ValueError(f"{side} has no place: none of the prompts of that side holds {TASK}")
    return made


_ASKED: dict[str, tuple[Slot, ...]] = {
    "query_task": ("composed", "composed_text", "query_image", "query_text", "image", "text"),
    "document_task": ("image", "text", "captioned"),
}


def _first(error: ValidationError, file: type[_About]) -> str:
    """Return the first mistake in a file, by its key."""
    found = error.errors()[0]
    kind, where = found["type"], ".".join(map(str, found["loc"]))
    if kind == "extra_forbidden":
        known = {1: file, 3: Wording if found["loc"][0] == "benchmarks" else PublishedModel}[len(found["loc"])]
        return f"'{where}' is no key of it" + did_you_mean(str(found["loc"][-1]), known.model_fields)
    if kind == "missing":
        alone = "; prompts alone are given as such: --prompts, in Python and recipes prompts"
        return f"it has no {where}" + (alone if where == "model_types" else "")
    if kind == "literal_error":
        return f"{where} is {found['input']!r:.60}, not {found['ctx']['expected']}"
    wanted = next((words for start, words in _WANTED.items() if kind.startswith(start)), None)
    said = json.dumps(found["input"], default=str)[:60]
    return f"{where} is {said}, not {wanted}" if wanted else f"{where}: {found['msg']}"


_WANTED = {
    "too_short": "a list with something in it",
    "list": "a list",
    "string": "a text",
    "int": "a whole number",
    "dict": "keys with values",
    "model": "keys with values",
}  # fmt: skip - by how pydantic's names of mistakes begin
