"""The files of an index beside FAISS's own: its settings, and its card."""

from __future__ import annotations

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
_ENTRIES = ("kind", "setting", "rerank", "store", "rows", "shards", "files")  # of the settings, at least
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
    missing = [key for key in _ENTRIES if key not in settings]
    if missing:
        raise DataError(f"{path} is damaged (no {missing[0]}): {REBUILD}")
    return settings


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
    write_json(folder / SETTINGS_FILE, {"format": INDEX_FORMAT, **settings, **tied})


def check_store(path: Path, settings: Mapping[str, Any], store: VectorStore) -> None:
    """Raise DataError where the index at `path`, with these settings, was built of another store."""
    # removed rows are no part of it, and neither are shards that were added since: the index fits them all the same
    if store.rows_fingerprint(settings["shards"]) != settings["rows_fingerprint"]:
        raise DataError(f"{path} was built of other vectors than {store.folder} holds: {REBUILD}")
