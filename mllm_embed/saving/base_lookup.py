"""Which base an adapter belongs to, and where that base lies now: folders move."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import ModelError
from ..model.loading import CONFIG_FILE
from ..model.lora import ADAPTER_CONFIG
from .checkpoint import model_fingerprint
from .settings import Settings, read_object, read_settings


def base_of(adapter: str | Path) -> tuple[str, str | None]:
    """Return name and, of a hub id, commit of the base that an adapter was trained on.

    A folder is looked for where the adapter says, from the working folder on; then beside and above the adapter, by
    that path and by its last name. Where there are several, that of the right weights is taken.

    Raises ModelError where the base is not there.
    """
    home, own = Path(adapter), read_settings(adapter)
    name = _named(home / ADAPTER_CONFIG)
    is_folder = name.count("/") > 1 or os.path.isabs(name) or (own is not None and own.base_is_folder)
    found = _found(_places(name, home) if is_folder else [Path(name)], own) if name else None
    if found is not None:
        return name if found == Path(name) else str(found), None
    if is_folder or not name:
        raise ModelError(
            f"the base model {name or 'None'} of {adapter} is not there; give it: --model BASE --adapter {adapter}, in "
            "Python from_pretrained(BASE, adapter=...); it was looked for from here, and beside and above the adapter"
        )
    return name, own.base_revision if own else None


def _named(config: Path) -> str:
    """Return the base's name in an adapter's config, empty where it has none."""
    name = read_object(config).get("base_model_name_or_path")
    if name is not None and not isinstance(name, str):
        raise ModelError(f"base_model_name_or_path in {config} is {name!r}, not the name of a model; save it again")
    return name or ""


def _places(name: str, adapter: Path) -> Iterator[Path]:
    """Yield where the base of an adapter may lie, as it was given first."""
    yield Path(name)
    homes = (*Path(os.path.abspath(adapter)).parents, *adapter.resolve().parents)
    yield from (Path(os.path.normpath(home / name)) for home in homes if not os.path.isabs(name))
    yield from (home / Path(name).name for home in homes[:2])


def _found(places: Iterable[Path], own: Settings | None) -> Path | None:
    """Return the first model folder, of several the first of the right weights; None where there is none.

    One of other weights is for loading to refuse.
    """
    there: dict[Path, Path] = {}
    for place in places:
        if (place / CONFIG_FILE).is_file():
            there.setdefault(place.resolve(), place)
    folders = list(there.values())
    if len(folders) > 1:
        folders = [place for place in folders if _may_be(place, own)] or folders
    return folders[0] if folders else None


def _may_be(folder: Path, own: Settings | None) -> bool:
    """Return whether a folder may hold the base of an adapter with these settings. Loading it says what is wrong with
    one that cannot be read."""
    if own is None or not own.base_fingerprint:
        return True
    try:
        return model_fingerprint(folder) == own.base_fingerprint
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return True
