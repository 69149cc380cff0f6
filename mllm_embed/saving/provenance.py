"""Provenance of vectors as plain JSON, so that those of another model or prompt are refused and never mixed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import ConfigError
from ..types import Item

SPACE_FIELDS = ("base", "adapter", "settings", "dimension")
"""Facts in which a query's vectors must agree with a gallery's: half precision on one side only is no hindrance."""
VECTOR_FIELDS = (*SPACE_FIELDS, "quantization", "dtype")
"""Facts in which the vectors of one store must agree."""
_LONGEST = 60


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], keys: tuple[str, ...], place: object) -> None:
    """Raise ConfigError, which names what differs, where the vectors at `place` were made by something else.

    Vectors of which nothing is known, since `before` is empty, are taken as they are.
    """
    if not before:
        return
    found = list(changes({key: before.get(key) for key in keys}, {key: now.get(key) for key in keys}))
    if found:
        raise ConfigError(
            f"{place} holds vectors that were made otherwise ({'; '.join(found[:3])}): use that model and those "
            "settings, or another store"
        )


def check_taught(items: Iterable[Item], target_space: Mapping[str, Any] | None) -> None:
    """Raise ConfigError for anything but a composed query where a model has its teacher's `target_space`.

    Nothing else was distilled: its vector would lie in no gallery's space.
    """
    other = next((item.role for item in items if item.role != "composed"), None) if target_space else None
    if other:
        raise ConfigError(
            f"this model was distilled to encode queries of a picture and an instruction, and cannot encode '{other}' "
            "inputs: its teacher does that (DualEncoder takes both; on the command line, --query-model)"
        )


def changes(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield the dotted keys whose values differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            yield from changes(before.get(key), now.get(key), f"{where}.{key}" if where else key)
    elif before != now:
        yield f"{where}: {_short(before)}, now {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
