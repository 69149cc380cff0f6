"""Provenance of vectors as plain JSON, so that those of another model or prompt are refused and never mixed."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import ConfigError
from ..types import Item

SPACE_FIELDS = ("base", "weights", "adapter", "adapter_settings", "processor", "settings", "dimension")
"""Facts in which a query's vectors must agree with a gallery's: half precision on one side only is no hindrance."""
VECTOR_FIELDS = (*SPACE_FIELDS, "quantization", "dtype")
"""Facts in which the vectors of one store must agree."""
THOUGHTS = "thoughts"
"""The fact, of a model that has them, in which its queries' vectors must agree as well."""
LEXICAL = "lexical"
"""The fact, of a model that has them, in which lexical vectors must agree as well."""
INDEX = "index"
"""The fact, of an index whose codes were tuned together with its queries and of these queries, in which the two must
agree as well: sha256 of the quantizer. Others have none."""
SEARCH_FIELDS = (*SPACE_FIELDS, INDEX)
"""Facts in which a query's vectors must agree with what is searched."""
# Facts that were not recorded at first. Where a record lacks them nothing can be said about them.
_LATER = {
    "weights": "all of the base's weights",
    "adapter_settings": "the adapter's scale and layers",
    "processor": "tokenizer, chat template and image processor",
}
_LONGEST = 60
_DIGEST = re.compile("[0-9a-f]{64}")


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], keys: tuple[str, ...], place: object) -> None:
    """Raise ConfigError, which names what differs, where the vectors at `place` were made by something else.

    Vectors of which nothing is known, since `before` is empty, are taken as they are. What an older version did not
    record, on either side, is named in a warning.
    """
    if not before:
        return
    unknown = [key for key in keys if key in _LATER and not (key in before and key in now)]
    if unknown:
        _warn(unknown, place)
    known = set(keys) - set(unknown)
    found = [change for key in keys if key in known for change in changes(before.get(key), now.get(key), key)]
    if found:
        raise ConfigError(
            f"{place} holds vectors that were made otherwise ({'; '.join(found[:3])}): use that model and those "
            "settings, or another store"
        )


def facts(record: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Return what a record says under `keys`, and of its thoughts: what made vectors of which some may be queries."""
    return {key: record[key] for key in (*keys, THOUGHTS) if key in keys or key in record}


def check_thoughts(before: Mapping[str, Any], now: Mapping[str, Any], items: Iterable[Item], place: object) -> None:
    """Raise ConfigError for a composed query among items where the queries at `place` were made with other thoughts."""
    if any(item.side == "query" and item.role == "composed" for item in items):
        check_same(before, now, (THOUGHTS,), place)


def _warn(unknown: Iterable[str], place: object) -> None:
    names = " and ".join(_LATER[key] for key in unknown)
    warnings.warn(
        f"{place} comes from an earlier version, which did not record {names}: whether these are the same now cannot "
        "be checked",
        stacklevel=3,
    )


def check_taught(items: Iterable[Item], target_space: Mapping[str, Any] | None) -> None:
    """Raise ConfigError for anything but a composed query where a model has the `target_space` of another's vectors.

    Nothing else was taught or tuned: its vector would lie in no gallery's space.
    """
    other = next(filter(None, map(_untaught, items)), None) if target_space else None
    if not other:
        return
    if target_space and INDEX in target_space:
        raise ConfigError(
            f"this model was tuned to ask an index of codes by a picture and an instruction, and cannot encode "
            f"{other}: the model that made the index's vectors does that"
        )
    raise ConfigError(
        f"this model was distilled to encode queries of a picture and an instruction, and cannot encode {other}: "
        "its teacher does that (DualEncoder takes both; on the command line, --query-model)"
    )


def _untaught(item: Item) -> str | None:
    """Return what of an item is no composed query, in words; None for nothing."""
    if item.role != "composed":
        return f"'{item.role}' inputs"
    return None if item.avoid is None else "words to avoid, which are a text"


def changes(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield the dotted keys whose values differ, with both values, which a digest is not worth."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            yield from changes(before.get(key), now.get(key), f"{where}.{key}" if where else key)
    elif before != now and where.startswith("processor.") and _is_digest(before) and _is_digest(now):
        yield f"another {where.removeprefix('processor.').replace('_', ' ')}"
    elif before != now and where == INDEX:
        yield "queries and index were not tuned together"
    elif before != now:
        yield f"{where}: {_short(before)}, now {_short(now)}"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and bool(_DIGEST.fullmatch(value))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
