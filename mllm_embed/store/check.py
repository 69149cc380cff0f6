"""All of a store against its checksums."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ..errors import DataError
from .files import verify_shard
from .kept.files import verify_kept
from .kept.lexical import verify_lexical
from .manifest import read_manifest
from .plans import loose_shards, read_plans
from .vector_store import VectorStore


@dataclass(frozen=True)
class Checked:
    """What a store was found to be.

    Args:
        rows, shards: how many there are.
        removed: rows that were.
        planned: rows that are being embedded, or were when that was stopped.
        loose: shards that belong neither to the store nor to a plan.
        checksums: whether there are any of ids and removed rows; stores of format 1 have none.
        damages: a sentence for each file that is not what was written.
    """

    rows: int
    shards: int
    removed: int
    planned: int
    loose: list[str]
    checksums: bool
    damages: list[str]


def check_store(folder: str | os.PathLike[str], show_progress: bool | None = None) -> Checked:
    """Read all of a store, and return what it was found to be.

    Args:
        folder: of the store.
        show_progress: None shows a bar on a terminal.

    Raises:
        DataError: the folder is no store, or its manifest or removed.npy is damaged, so that no more can be said.
    """
    path = Path(folder)
    store = VectorStore(path)
    hide = None if show_progress is None else not show_progress
    bar = tqdm(store.shards, desc="checking", unit="shard", disable=hide, mininterval=1)
    kept = read_manifest(path).kept
    found = []
    for shard in bar:
        found += [_damage(partial(verify_shard, path, shard)), _damage(partial(verify_kept, path, shard, kept))]
        found += [_damage(partial(verify_lexical, path, shard))]
    if not any(found):
        found = [_damage(store.verify_small)]
    planned = sum(len(plan.ids) for plan in read_plans(path))
    removed = len(store) - int(store.alive.sum())
    checksums = all(shard.record is not None for shard in store.shards)
    damages = list(filter(None, dict.fromkeys(found)))  # a damaged record is found twice
    return Checked(len(store), len(store.shards), removed, planned, loose_shards(path), checksums, damages)


def _damage(check: Callable[[], None]) -> str | None:
    try:
        check()
    except DataError as error:
        return str(error)
    return None
