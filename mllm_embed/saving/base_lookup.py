"""Which base an adapter belongs to, and where that base lies now: folders move."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..model.loading import CONFIG_FILE, load_errors
from ..model.lora import ADAPTER_CONFIG
from .checkpoint import model_fingerprint
from .hub import holds, is_hub_id
from .settings import Settings, read_object, read_settings

_WHOLE = ("model.safetensors", "pytorch_model.bin")


def base_of(adapter: str | Path) -> tuple[str, str | None]:
    """Return name and, of a hub id, commit of the base that an adapter was trained on.

    A folder is looked for where the adapter says, from the working folder on; then beside and above the adapter, by
    that path and by its last name. Where there are several, that of the right weights is taken.

    Raises ModelError where the base is not there.
    """
    home, own = Path(adapter), read_settings(adapter)
    name = named_base(home)
    is_folder = _is_path(name) or (own is not None and own.base_is_folder)
    look = is_folder or own is None  # of an adapter without our settings OWNER/NAME may be a folder, too
    found = _found(_places(name, home) if look else [Path(name)], own) if name else None
    if found is not None:
        return name if found == Path(name) else str(found), None
    if is_folder or not name:
        raise ModelError(
            f"the base model {name or 'None'} of {adapter} is not there; give it: --model BASE --adapter {adapter}, in "
            "Python from_pretrained(BASE, adapter=...); it was looked for from here, and beside and above the adapter"
        )
    return name, own.base_revision if own else _revision(home / ADAPTER_CONFIG)


def _revision(config: Path) -> str | None:
    """Return which revision of its base an adapter's config names, None where it names none."""
    revision = read_object(config).get("revision")
    return revision if isinstance(revision, str) and revision else None


def _is_path(name: str) -> bool:
    """Return whether the name of a base can be no hub id."""
    return name.count("/") > 1 or os.path.isabs(name)


def named_base(adapter: str | Path) -> str:
    """Return the base's name in an adapter's config, empty where it has none."""
    config = Path(adapter) / ADAPTER_CONFIG
    name = read_object(config).get("base_model_name_or_path")
    if name is not None and not isinstance(name, str):
        raise ModelError(f"base_model_name_or_path in {config} is {name!r}, not the name of a model; save it again")
    return name or ""


def check_named(adapter: str | Path, base: str) -> None:
    """Compare the base that a user gives with the name in an adapter of others', which has no fingerprint of it.

    A folder may be any model, and is taken: with a warning where nothing in its path is the name that the adapter
    gives. Raises ModelError where both are hub ids, of models by different names.
    """
    name = named_base(adapter)
    last = name.rstrip("/").rpartition("/")[2].lower()
    if not last or last in re.split("/|--", base.lower()):  # models--OWNER--NAME is a folder of the hub's cache
        return
    if is_hub_id(name) and is_hub_id(base):
        raise ModelError(
            f"the adapter in {adapter} was trained on {name}, not on {base}; give that one: --model {name} --adapter "
            f"{adapter}, or the folder of a copy of it"
        )
    warnings.warn(
        f"the adapter in {adapter} was trained on {name}; that {base} is the same model is not checked, only that its "
        "layers have the same names and shapes",
        stacklevel=5,
    )


def check_same_tokens(folder: Path, processor: Any) -> None:
    """Raise ModelError where the tokenizer in a folder makes other tokens, or has another template, than that of its
    base, `processor`'s."""
    from transformers import AutoTokenizer

    with load_errors(str(folder)):
        own: Any = AutoTokenizer.from_pretrained(folder)
        base = processor.tokenizer
        if own.get_vocab() == base.get_vocab() and own.chat_template in (None, base.chat_template):
            return
    raise ModelError(
        f"{folder} holds a tokenizer without an image processor, and its tokens or its chat template are not those of "
        "its base: copy the base's image processor beside it, or take the tokenizer out, so that the base's is used"
    )


def has_weights(folder: str | Path, name: str, revision: str | None = None) -> bool:
    """Return whether a folder with an adapter holds a whole model too, rather than its config alone.

    Args:
        folder: where its small files are.
        name: the same folder, or the hub id that they were fetched from.
        revision: of the hub id.
    """
    home = Path(folder)
    if not (home / CONFIG_FILE).is_file():
        return False
    if any(list(home.glob(pattern)) for pattern in ("model*.safetensors", "pytorch_model*.bin", "*.index.json")):
        return True
    return is_hub_id(name) and any(holds(name, file, revision) for file in _WHOLE)


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
