"""Recipes as YAML files with overrides laid over them, each mistake told in one sentence; and whole recipes as YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mllm_embed.errors import ConfigError, did_you_mean
from mllm_embed.yaml_text import as_yaml, parsed

from ..data.roles import ROLES
from ..data.source import DataSource
from .config import Recipe, TeacherSection
from .layers import LAYER_KEYS, chain_of, find_recipe, laid_together
from .reranker.recipe import RerankerSection, RerankRecipe
from .reranker.stage import RerankStage
from .reranker.term import RankingTerm
from .run_keys import RunKeys
from .stage import Stage
from .stage_keys.evaluate import Evaluate
from .stage_keys.guide import Guide
from .stage_keys.jpq import Jpq
from .stage_keys.mine import Mine
from .stage_keys.optimizer import Rates
from .stage_keys.terms import Term
from .trained.lora import Lora
from .trained.multi import MultiSection

# what the value must be, by the first word of pydantic's type of error
_WANTED = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "path": "a path",
    "list": "a list", "tuple": "a list", "dict": "keys with values", "model": "keys with values",
}  # fmt: skip
_MOST_PARTS, _MOST_SHOWN = 8, 80
SECTIONS: dict[str, type[BaseModel]] = {
    "recipe": Recipe,
    "lora": Lora,
    "teacher": TeacherSection,
    "multi": MultiSection,
    "stages.NAME": Stage,
    "stages.NAME.terms": Term,
    "stages.NAME.data, where it is a list": DataSource,
    "stages.NAME.rates": Rates,
    "stages.NAME.evaluate": Evaluate,
    "stages.NAME.guide": Guide,
    "stages.NAME.mine": Mine,
    "stages.NAME.jpq": Jpq,
    "reranker, of a recipe that makes one": RerankerSection,
    "stages.NAME, of a re-ranker": RerankStage,
    "stages.NAME.terms, of a re-ranker": RankingTerm,
}


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe of an embedder as `load_any` does. Raise ConfigError as it, and for one of a re-ranker."""
    recipe = load_any(path, overrides)
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"recipe {path} trains a re-ranker, which is not taken here; give one of an embedder")
    return recipe


def validated(raw: Mapping[str, Any]) -> Recipe | RerankRecipe:
    """Return the recipe of keys with values: of a re-ranker where there is a section `reranker`, else of an embedder.

    Raise pydantic's ValidationError.
    """
    return (RerankRecipe if "reranker" in raw else Recipe).model_validate(raw)


def load_any(path: str | Path, overrides: Sequence[str] = ()) -> Recipe | RerankRecipe:
    """Read a YAML recipe, lay it over the chain of its bases, apply `key=value` overrides (`lora.rank=8`).

    Raise ConfigError for a missing file, bad YAML, an unknown key or a value out of range, naming it.
    """
    path = find_recipe(Path(path))
    raw = laid_together(chain_of(path))
    for override in overrides:
        _apply(raw, override)
    try:
        return validated(raw)
    except ValidationError as error:
        raise ConfigError(f"recipe {path}: {one_sentence(error)}") from error
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"recipe {path}: {error.object[error.start]!r} is half a character; write the whole"
        ) from error


def as_text(recipe: RunKeys) -> str:
    """Return a recipe as YAML, of which `load_recipe` makes the same: every key that has a value, defaults too."""
    from mllm_embed.model.lora import ADAPTER_CONFIG

    shown = recipe.model_dump(mode="json", exclude_none=True)
    # what a recipe says of the layers of an adapter to go on from must agree with it: nothing may be added
    if recipe.adapter or (Path(recipe.model) / ADAPTER_CONFIG).is_file():
        del shown["lora"]
        if "lora" in recipe.model_fields_set:
            shown["lora"] = recipe.lora.model_dump(mode="json", exclude_unset=True)
    return as_yaml(shown)


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override '{_short(override)}' is not of the form key=value")
    new = parsed(value, f"override '{_short(override)}': the value")
    *parents, last = key.split(".")
    if len(parents) > _MOST_PARTS:
        raise ConfigError(f"override '{_short(override)}': no key of a recipe has so many parts")
    _check_stage(raw, parents, override)
    here: Any = raw
    for parent in parents:
        here = here.setdefault(parent, {}) if isinstance(here, dict) else here[_index(here, parent, override)]
    if new is None and value.strip() and isinstance(here, dict) and last in here:
        del here[last]  # as null in a recipe takes a key of its base away; nothing at all is a slip, and told
        return
    here[last if isinstance(here, dict) else _index(here, last, override)] = new


def _check_stage(raw: dict[str, Any], parents: list[str], override: str) -> None:
    """Raise ConfigError for a key of a stage that is not there, a slip; a whole stage may be new."""
    stages = raw.get("stages")
    if parents[:1] == ["stages"] and len(parents) > 1 and isinstance(stages, dict) and parents[1] not in stages:
        cure = did_you_mean(parents[1], stages) or f"; it has {', '.join(stages)}"
        raise ConfigError(f"override '{override}': the recipe has no stage '{parents[1]}'{cure}")


def _short(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def _index(here: Any, part: str, override: str) -> int:
    if not isinstance(here, list):
        raise ConfigError(f"override '{override}': the key goes below a plain value ({_short(repr(here))})")
    if not re.fullmatch("[0-9]{1,6}", part) or int(part) >= len(here):
        raise ConfigError(f"override '{override}': no entry '{part}' there")
    return int(part)


def one_sentence(error: ValidationError) -> str:
    """Return the first thing that is wrong with keys, and where, for people who have never heard of pydantic."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]")
    if first["type"] != "extra_forbidden":
        return (
            f"{where or 'recipe'}: {_what_is_wrong(first['type'], first['msg'], first['input'], first.get('ctx', {}))}"
        )
    known = [name for section in SECTIONS.values() for name in section.model_fields]
    cure = did_you_mean(str(first["loc"][-1]), known) or "; `mllm-embed-train --help` lists the keys"
    return f"unknown key '{_short(where)}'{cure}"


def _what_is_wrong(kind: str, message: str, given: Any, context: Mapping[str, Any]) -> str:
    """Return what is wrong with a value."""
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "missing":
        return "is missing"
    if kind == "string_too_short":
        return "must not be empty"
    if kind in ("too_short", "too_long"):
        return _wrong_length(kind, context)
    shown = "nothing" if given is None else _short(repr(given))
    if kind == "literal_error":
        known = re.findall("'([^']+)'", context["expected"])
        return f"must be {context['expected']}, not {shown}{did_you_mean(str(given), known)}"
    wanted = _WANTED.get(kind.partition("_")[0])
    return f"must be {wanted}, not {shown}" if wanted else f"{message.replace('Input should', 'must')}, not {shown}"


def _wrong_length(kind: str, context: Mapping[str, Any]) -> str:
    most, least = context.get("max_length"), context.get("min_length")
    if kind == "too_short" and least == 1:
        return "must not be empty"
    return f"needs {f'at least {least}' if least else f'at most {most}'} entries, not {context['actual_length']}"


def describe_keys() -> str:
    """Return the recipe's keys with their meaning and default, for `--help`."""
    lines = []
    for title, section in SECTIONS.items():
        lines.append(f"{title}:")
        if section is Recipe:
            lines += [f"  {name:<24}{meaning}" for name, meaning in LAYER_KEYS.items()]
        lines += [_described(name, field) for name, field in section.model_fields.items()]
    lines += ["roles that rows offer:", *(f"  {rows:<24}{', '.join(roles)}" for rows, roles in ROLES.items())]
    return "\n".join(lines)


def _described(name: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else f"default {field.default}"
    if isinstance(field.default, BaseModel):
        default = "see below"
    if default == "default None":  # the description says what None means
        default = ""
    return f"  {name:<24}{'; '.join(filter(None, [field.description, default]))}"
