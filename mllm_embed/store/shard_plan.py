"""The plan of what is left to embed, cut into shards, which stands in the store until all of them are made.

    STORE/plan.json    number of the first shard, how many there are, their size, sha256 of the rows' ids

Another process reads from it which shards are on their way, and whether its own rows are those.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.sources import Listing
from ..encode.embedder import MLLMEmbedder
from ..errors import DataError, ImageError
from ..files import check_space, read_json, write_json
from .files import next_number, shard_name, written_shards
from .vector_store import VectorStore

PLAN = "plan.json"


@dataclass(frozen=True)
class ShardPlan:
    """The rows of a listing that are being embedded, cut into shards.

    Args:
        rows: [R] their numbers, in order.
        digest: sha256 of their ids and the size of shards.
        first: number of the first shard.
        size: rows a shard.
    """

    rows: Sequence[int]
    digest: str
    first: int
    size: int

    def __iter__(self) -> Iterator[tuple[str, Sequence[int]]]:
        """Yield the name and the rows of each shard."""
        for at in range(0, len(self.rows), self.size):
            yield shard_name(self.first + at // self.size), self.rows[at : at + self.size]

    @property
    def names(self) -> list[str]:
        """The names of all shards, in order."""
        return [name for name, _ in self]


def plan_shards(store: VectorStore, embedder: MLLMEmbedder, listing: Listing, size: int) -> ShardPlan:
    """Return the plan of the rows that are not in the store: that of before or, where they are others now, a new one.

    What an older plan has made by then belongs to the store from now on. New shards have numbers beyond those of the
    old plan, which another process may be at work on.
    """
    path = store.folder / PLAN
    old = read_plan(path)
    rows = _missing_rows(store, embedder, listing)
    digest = _digest([listing.ids[row] for row in rows], size)
    if old and old["digest"] == digest:
        return ShardPlan(rows, digest, old["first"], size)
    first = next_number(store.folder)
    if old:
        # rows have come, gone or been mended since: the shards that are made stay, so that their rows are not missing
        planned = range(old["first"], old["first"] + old["shards"])
        store.commit([name for name in written_shards(store.folder) if int(name) in planned])
        rows = _missing_rows(store, embedder, listing)
        digest = _digest([listing.ids[row] for row in rows], size)
        first = max(first, planned.stop)
    plan = ShardPlan(rows, digest, first, size)
    room = len(rows) * store.dimension * store.dtype.itemsize
    check_space(store.folder, room, f"the vectors of {len(rows):,} rows")
    write_json(path, {"digest": digest, "first": first, "shards": len(plan.names), "rows": len(rows), "size": size})
    return plan


def read_plan(path: Path) -> dict[str, Any] | None:
    """Return the file of what is being embedded, None where nothing is. Raises DataError for a damaged one."""
    if not path.is_file():
        return None
    plan = read_json(path, f"delete {path}")
    if not isinstance(plan, dict) or not {"digest", "first", "shards"} <= plan.keys():
        raise DataError(f"{path} is damaged: delete it, and give the same command again")
    return plan


def _missing_rows(store: VectorStore, embedder: MLLMEmbedder, listing: Listing) -> list[int]:
    """Return the rows whose ids are not in the store, but for those that could not be read before and still cannot."""
    there = set(store.living)
    lost = {entry["id"] for entry in store.lost}
    rows = [row for row, name in enumerate(listing.ids) if name not in there]
    return [row for row in rows if listing.ids[row] not in lost or _is_readable(embedder, listing, row)]


def _is_readable(embedder: MLLMEmbedder, listing: Listing, row: int) -> bool:
    try:
        embedder.item_processor.prepared(listing.read(row)[0])
    except (ImageError, DataError):
        return False
    return True


def _digest(ids: Sequence[str], size: int) -> str:
    return hashlib.sha256(json.dumps([size, ids]).encode()).hexdigest()
