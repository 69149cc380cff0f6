"""The files of an index beside FAISS's own: its settings, and its card."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import read_json, write_json
from ..store.files import sha256_of
from ..store.vector_store import VectorStore

INDEX_FORMAT = "mllm_embed index 1"
SETTINGS_FILE, CARD_FILE = "index.json", "card.md"
_ENTRIES = {
    "kind": str, "setting": int, "rerank": int, "store": str, "rows": int, "shards": int, "rows_fingerprint": str,
    "files": dict,
}  # fmt: skip
"""Of the settings, at least."""
_OWN = "sha256"  # the settings' own, of all else that they say; older indexes have none
REBUILD = "build the index again"
"""What to do about a damaged index."""


def read_index_settings(folder: Path) -> dict[str, Any]:
    """Return what an index says of itself.

    Raises:
        DataError: the folder is no index, or one that is damaged or newer.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise DataError(f"{folder} is no index (it has no {SETTINGS_FILE}): build one with `mllm-embed index`")
    settings = read_json(path, REBUILD)
    if not isinstance(settings, dict) or settings.get("format") != INDEX_FORMAT:
        raise DataError(f"{path} is damaged, or not of the format {INDEX_FORMAT!r}: {REBUILD}")
    wrong = [key for key, kind in _ENTRIES.items() if type(settings.get(key)) is not kind]
    if wrong:
        raise DataError(f"{path} is damaged ({wrong[0]}): {REBUILD}")
    if settings.get(_OWN, _digest(settings)) != _digest(settings):
        raise DataError(f"{path} is not what was written: {REBUILD}")
    return settings


def _digest(settings: Mapping[str, Any]) -> str:
    """Return the sha256 of settings, but for what they say of their own."""
    others = {key: value for key, value in settings.items() if key != _OWN}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def check_files(folder: Path, settings: Mapping[str, Any]) -> None:
    """Read the files of an index, and raise DataError naming the first that is not what was written."""
    for name, digest in settings["files"].items():
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing: {REBUILD}")
        if sha256_of(folder / name) != digest:
            raise DataError(f"{folder / name} is not what was written: {REBUILD}")


def write_settings(folder: Path, home: Path, store: VectorStore, settings: Mapping[str, Any]) -> None:
    """Write the settings of the index in `folder`, which will be at `home`, and what ties it to its files and store."""
    files = sorted(path.name for path in folder.iterdir() if path.name not in (SETTINGS_FILE, CARD_FILE))
    tied = {
        "store": os.path.relpath(store.folder.resolve(), home.resolve()),
        "rows": len(store),
        "shards": len(store.shards),
        "rows_fingerprint": store.rows_fingerprint(len(store.shards)),
        "files": {name: sha256_of(folder / name) for name in files},
    }
    # as JSON has it, in which every key is a string
    all_of_it = json.loads(json.dumps({"format": INDEX_FORMAT, **settings, **tied}))
    write_json(folder / SETTINGS_FILE, all_of_it | {_OWN: _digest(all_of_it)})


def check_store(path: Path, settings: Mapping[str, Any], store: VectorStore) -> None:
    """Raise DataError where the index at `path`, with these settings, was built of another store."""
    # removed rows are no part of it, and neither are shards that were added since: the index fits them all the same
    same = store.rows_fingerprint(settings["shards"]) == settings["rows_fingerprint"]
    if not same or settings["rows"] != sum(shard.rows for shard in store.shards[: settings["shards"]]):
        raise DataError(f"{path} was built of other vectors than {store.folder} holds: {REBUILD}")
