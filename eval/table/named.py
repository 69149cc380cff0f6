"""Models and benchmarks as a user names them, in one word each or in a YAML file of many."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mllm_embed.errors import ConfigError, did_you_mean
from mllm_embed.model.quantization import QUANTIZATIONS
from mllm_embed.presets import catalog
from mllm_embed.yaml_text import read_yaml

from ..benchmarks import BENCHMARKS, benchmark_named
from ..benchmarks.base import with_defaults

FOLDER = "folder"
_YAML = (".yaml", ".yml")
_PLACES = ("model", "adapter", "query_model", "query_adapter")
PUBLISHED = "published"
"""The word for all models of the presets."""
_PART = re.compile(r",(?=[a-z_-]+=)")  # a comma in a path is none that begins an option


class _Named(BaseModel):
    """What has a name of its own, by which its row, column and folder are called."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="", min_length=1, description="what the table calls it")

    @property
    def folder(self) -> str:
        """The name as that of a folder."""
        return re.sub(r"[^\w.-]+", "_", self.name).strip("._-") or "unnamed"


class NamedModel(_Named):
    """A model and how it is loaded and asked; what is left out is as on the command line."""

    model: str = Field(min_length=1, description="model folder or hub id, or an adapter folder")
    adapter: str | None = Field(default=None, description="adapter folder to put on the model")
    preset: str | None = None
    prompts: str | None = None
    query_model: str | None = Field(default=None, description="small model for composed queries")
    query_adapter: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    quantization: str | None = None
    device: str | None = None
    dim: int | None = None
    max_tokens: int | None = None
    truncate: bool | None = None
    jpeg_side: int | None = Field(default=None, ge=0)
    thoughts: int | None = Field(default=None, ge=0)
    thought_cache: str | None = None
    batch_size: int | None = Field(default=None, ge=1)
    task: str | None = Field(default=None, min_length=1)
    document_task: str | None = Field(default=None, min_length=1)
    trained_on: tuple[str, ...] = Field(default=(), description="data folders that it was trained on besides")

    @property
    def places(self) -> dict[str, str]:
        """The folders or hub ids that it is made of, by what they are."""
        named = {key: getattr(self, key) for key in _PLACES}
        return {key.replace("_", " "): place for key, place in named.items() if place}

    def with_defaults(self, given: Mapping[str, Any]) -> NamedModel:
        """Return it with values of a command line for what it does not say itself."""
        unsaid = {key: value for key, value in given.items() if getattr(self, key) in (None, ())}
        return self.model_copy(update=unsaid)


class NamedBenchmark(_Named):
    """A benchmark of the registry, or a folder of one's own, with where it lies."""

    benchmark: str = FOLDER
    data: Path
    images: Path | None = None
    split: str | None = None
    options: dict[str, str] = {}


_Thing = TypeVar("_Thing", NamedModel, NamedBenchmark)


def read_models(words: Sequence[str], given: Mapping[str, Any]) -> list[NamedModel]:
    """Return the models of words, and of the YAML files among them.

    Args:
        words: [NAME=]MODEL[+ADAPTER][,KEY=VALUE...], a YAML file with a list of models by their keys, or "published",
            which is the hub ids of all presets.
        given: values of a command line, for what a model does not say itself.

    Raises:
        ConfigError: a word or file that says something else, or two models of one name.
    """
    models = [model for word in words for model in _models(word)]
    for model in models:
        if model.quantization not in (None, *QUANTIZATIONS):
            raise ConfigError(f"{model.name}: quantization is one of {', '.join(QUANTIZATIONS)}")
        if model.query_adapter and not model.query_model:
            raise ConfigError(f"{model.name}: query_adapter needs query_model: an adapter goes on a model")
    return [model.with_defaults(given) for model in _apart(models, "models", "NAME=MODEL")]


def read_benchmarks(words: Sequence[str]) -> list[NamedBenchmark]:
    """Return the benchmarks of words, and of the YAML files among them.

    Args:
        words: NAME=ROOT[,KEY=VALUE...] for a benchmark of the registry, where a key is split, images or one of its
            options; FOLDER or NAME=FOLDER for one with a benchmark.json; or a YAML file with a list of benchmarks.

    Raises:
        ConfigError: a word or file that says something else, an unknown split or option.
    """
    return [benchmark for word in words for benchmark in _benchmarks(word)]


def apart(benchmarks: Sequence[NamedBenchmark]) -> list[NamedBenchmark]:
    """Return benchmarks, of which none is called as another. Raise ConfigError where two are."""
    return _apart(benchmarks, "benchmarks", "NAME=FOLDER")


def benchmark_of(
    benchmark: str, data: Path, split: str | None = None, options: Mapping[str, str] | None = None, **more: Any
) -> NamedBenchmark:
    """Return a benchmark with the name by which results call it: of a folder of one's own its last part.

    Raises ConfigError for an unknown benchmark, split or option.
    """
    given = dict(options or {})
    full_split, all_options = with_defaults(benchmark_named(benchmark), split, given)
    words = [benchmark, *filter(None, [full_split]), *map("=".join, all_options.items())]
    data = data.expanduser()
    values: dict[str, Any] = {"benchmark": benchmark, "data": data, "split": split, "options": given}
    values["name"] = data.resolve().name if benchmark == FOLDER else " ".join(words)
    return NamedBenchmark(**(values | {key: value for key, value in more.items() if value is not None}))


def _models(word: str) -> list[NamedModel]:
    if word.endswith(_YAML):
        where = f"the models in {word}"
        return [_model(values, f"{where}, number {at}") for at, values in enumerate(_listed(word, "models"), 1)]
    if word == PUBLISHED:
        presets = map(catalog.preset, catalog.names())
        return [NamedModel(name=model.id, model=model.id) for preset in presets for model in preset.models]
    name, place, options = _parts(word, "--models")
    model, adapter = place, None
    if "+" in place and not _is_there(place):
        model, _, adapter = place.partition("+")
    values: dict[str, Any] = {key.replace("-", "_"): value for key, value in options.items()}
    values |= {"model": model} | ({"name": name} if name else {})
    return [_model(values | ({"adapter": adapter} if adapter is not None else {}), f"--models {word}")]


def _model(values: Mapping[str, Any], where: str) -> NamedModel:
    more = {"trained_on": (values["trained_on"],)} if isinstance(values.get("trained_on"), str) else {}
    named = _checked(NamedModel, {**values, **more}, where)
    homes = {key: _home(place) for key in _PLACES if (place := getattr(named, key))}
    named = named.model_copy(update=homes)
    return named if named.name else named.model_copy(update={"name": _name_of(named)})


def _name_of(model: NamedModel) -> str:
    """Return a hub id as it is, and of a folder the last two parts: every training run calls its stages alike."""
    place = model.adapter or model.model
    parts = Path(place).parts[-2:] if Path(place).is_dir() else (place,)
    return "/".join(part for part in parts if part not in ("/", "..", "."))


def _benchmarks(word: str) -> list[NamedBenchmark]:
    if word.endswith(_YAML):
        where = f"the benchmarks in {word}"
        listed = enumerate(_listed(word, "benchmarks"), 1)
        return [_benchmark(values, f"{where}, number {at}") for at, values in listed]
    name, place, options = _parts(word, "--benchmarks")
    if name in BENCHMARKS:
        values: dict[str, Any] = {"benchmark": name}
    elif not Path(_home(place)).is_dir():
        known = ", ".join(key for key in BENCHMARKS if key != FOLDER)
        if name:
            raise ConfigError(f"--benchmarks {word}: '{name}' is none of {known}" + did_you_mean(name, BENCHMARKS))
        raise ConfigError(f"--benchmarks {word} is neither NAME=ROOT with one of {known}, nor a folder here")
    else:
        values = {"name": name} if name else {}
    values |= {key: options.pop(key) for key in ("split", "images") if key in options}
    return [_benchmark(values | {"data": _home(place), "options": options}, f"--benchmarks {word}")]


def _benchmark(values: Mapping[str, Any], where: str) -> NamedBenchmark:
    named = _checked(NamedBenchmark, values, where)
    try:
        more = {"images": named.images and named.images.expanduser(), "name": named.name or None}
        return benchmark_of(named.benchmark, named.data, named.split, named.options, **more)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _parts(word: str, flag: str) -> tuple[str, str, dict[str, str]]:
    """Return the name, the place and the options of a word; a word that is a folder here is that alone."""
    if _is_there(word):
        return "", word, {}
    head, *rest = _PART.split(word)
    options: dict[str, str] = {}
    for part in rest:
        key, _, value = part.partition("=")
        if key in options:
            raise ConfigError(f"{flag} {word}: {key} is given twice")
        options[key] = value
    return *_name_and_place(head, f"{flag} {word}"), options


def _name_and_place(head: str, where: str) -> tuple[str, str]:
    """Return what stands before and behind a "="; what has none is a place alone, and so is a folder here."""
    name, sign, place = head.partition("=")
    if not sign or _is_there(head):
        return "", head
    if not name or not place:
        raise ConfigError(f"{where}: nothing stands {'after' if name else 'before'} the '='")
    return name, place


def _is_there(place: str) -> bool:
    return Path(_home(place)).is_dir()


def _home(place: str) -> str:
    # a shell knows "~" at the beginning of a word alone
    return str(Path(place).expanduser()) if place.startswith("~") else place


def _listed(word: str, what: str) -> list[dict[str, Any]]:
    values = read_yaml(Path(_home(word)), f"file of {what}")
    if not isinstance(values, list) or not values:
        raise ConfigError(f"file of {what} {word} must hold a list of {what}, each with its keys")
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise ConfigError(
                f"the {what} in {word}, number {number}: it must have keys with values, not {value!r:.60}"
            )
    return values


def _checked(kind: type[_Thing], values: Mapping[str, Any], where: str) -> _Thing:
    """Return what keys say. Raise ConfigError, which begins with `where`, for the first that is wrong."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = error.errors()[0]
    key = ".".join(map(str, found["loc"]))
    if found["type"] == "extra_forbidden":
        raise ConfigError(f"{where}: there is no '{key}'" + did_you_mean(key, kind.model_fields))
    if found["type"] == "missing":
        raise ConfigError(f"{where}: it has no {key}")
    raise ConfigError(f"{where}: {key} is {found['input']!r:.60}: {found['msg']}")


def _apart(things: Sequence[_Thing], what: str, cure: str) -> list[_Thing]:
    seen: dict[str, str] = {}
    for thing in things:
        key = thing.folder.casefold()  # of which some file systems have one alone
        if key in seen:
            same = f"'{thing.name}'" if seen[key] == thing.name else f"'{seen[key]}' and '{thing.name}'"
            raise ConfigError(f"two {what} would be called {same} in the table; name them: {cure}")
        seen[key] = thing.name
    return list(things)
