"""From sources to a vector store: a shard at a time, by as many processes as there are, and never twice.

    STORE/plan.json          the rows that are being embedded, cut into shards, until all of them are done
    STORE/unreadable.jsonl   rows that could not be read: id, source, reason

A shard is planned and embedded by itself, so that its vectors do not depend on which process makes it, and when. Who
comes makes shards that are not there and that no other process holds; a process that dies holds none any more. Whoever
finds all of them made lets them belong to the store.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ..data.sources import Listing
from ..encode.embedder import MLLMEmbedder
from ..encode.planning import Cost, total
from ..errors import ConfigError, DataError, ImageError, ModelError
from ..files import alone_in, check_space, read_json, write_file, write_json
from ..saving.provenance import VECTOR_FIELDS, check_same
from ..types import Item
from ..vectors.precision import truncate
from .claims import claims, own_first
from .files import MANIFEST, SHARDS, next_number, write_shard, written_shards
from .vector_store import VectorStore

PLAN, UNREADABLE, CLAIMS = "plan.json", "unreadable.jsonl", ".claims"
SHARD_ROWS = 4096
_HOPELESS = 64  # rows of which not one can be read: it is the paths that are wrong


@dataclass(frozen=True)
class ShardPlan:
    """Rows of a listing that are being embedded.

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
        """Name and rows of each shard."""
        for at in range(0, len(self.rows), self.size):
            yield f"{self.first + at // self.size:06d}", self.rows[at : at + self.size]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self]


class _Made(NamedTuple):
    """Of one shard: rows with a vector, rows without, and the work on them."""

    rows: int
    lost: int
    given: Cost
    planned: Cost


@dataclass(frozen=True)
class Extracted:
    """What `encode_sources` did.

    Args:
        store: the store; None where other processes still make a part of it.
        rows: rows that this process embedded.
        held: shards that others were making when this process found nothing left to do.
        lost: rows that this process could not read.
        given, planned: the work on its rows as they were, and as it was planned.
    """

    store: VectorStore | None
    rows: int
    held: int
    lost: int
    given: Cost
    planned: Cost


def encode_sources(
    embedder: MLLMEmbedder,
    listing: Listing,
    folder: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    shard_rows: int = SHARD_ROWS,
    batch_size: int = 32,
    show_progress: bool | None = None,
) -> Extracted:
    """Embed what the store in `folder` has not got yet; a stopped or killed call goes on where it was.

    Called by several processes at once, on one machine or several that see the same folder, each makes a part. Rows
    that cannot be read are left out and listed in unreadable.jsonl; the next call tries them again.

    Args:
        embedder: the model; that of the store where there is one.
        listing: what to embed, of `open_sources`.
        folder: the store; made where it is not there.
        dtype: "float32", "float16" or "int8"; by default that of the store, float32 for a new one.
        shard_rows: rows a shard: what a kill may cost.
        batch_size: as of `MLLMEmbedder.encode`.
        show_progress: None shows a bar on a terminal.

    Raises ConfigError for a store that was made by another model, prompt, dtype or number format, DataError for a
    shard of which nothing can be read and a full disk, ModelError for a vector with NaN.
    """
    path = Path(folder)
    with alone_in(path, wait=True):
        store = _opened(path, embedder, dtype)
        shares = _planned(store, embedder, listing, shard_rows)
    made: list[_Made] = []
    held = 0
    missing = [(name, rows) for name, rows in shares if not _is_made(path, name)]
    done = len(shares.rows) - sum(len(rows) for _, rows in missing)
    with claims(path / CLAIMS) as claim, _bar(len(shares.rows), done, show_progress) as bar:
        for name, rows in own_first(missing):
            with claim(int(name)) as mine:
                if not mine:
                    held += 1
                elif _is_made(path, name):  # by another process, since
                    bar.update(len(rows))
                else:
                    made.append(_make_shard(embedder, listing, store, name, rows, batch_size, bar))
                    bar.set_postfix_str(f"{_rate(made, bar):,.0f} tokens/s", refresh=False)
    with alone_in(path, wait=True):
        whole = _finished(path, shares, listing)
    rows, lost = sum(shard.rows for shard in made), sum(shard.lost for shard in made)
    return Extracted(whole, rows, held, lost, total([m.given for m in made]), total([m.planned for m in made]))


def _opened(path: Path, embedder: MLLMEmbedder, dtype: str | None) -> VectorStore:
    """The store, new or as it is. Raises ConfigError where its vectors are others."""
    if not (path / MANIFEST).is_file():
        return VectorStore.create(path, embedder.dimension, dtype=dtype or "float32", provenance=embedder.provenance)
    store = VectorStore(path)
    check_same(store.provenance, embedder.provenance, VECTOR_FIELDS, path)
    if dtype and store.dtype != dtype:
        raise ConfigError(
            f"{path} keeps {store.dtype}, not {dtype}: give --store-dtype {store.dtype}, or another store"
        )
    return store


def _planned(store: VectorStore, embedder: MLLMEmbedder, listing: Listing, size: int) -> ShardPlan:
    """The rows that are not in the store: as planned before, or, where they are others now, planned anew.

    What an older plan has made by then belongs to the store from now on. New shards have numbers beyond those of the
    old plan, which another process may be at work on.
    """
    path = store.folder / PLAN
    old = _read_plan(path)
    rows = _missing(store, embedder, listing)
    digest = _digest([listing.ids[row] for row in rows], size)
    if old and old["digest"] == digest:
        return ShardPlan(rows, digest, old["first"], size)
    first = next_number(store.folder)
    if old:
        planned = range(old["first"], old["first"] + old["shards"])
        store.commit(name for name in written_shards(store.folder) if int(name) in planned)
        rows = _missing(store, embedder, listing)
        digest = _digest([listing.ids[row] for row in rows], size)
        first = max(first, planned.stop)
    shares = ShardPlan(rows, digest, first, size)
    room = len(rows) * store.dimension * store.dtype.itemsize
    check_space(store.folder, room, f"the vectors of {len(rows):,} rows")
    write_json(path, {"digest": digest, "first": first, "shards": len(shares.names), "rows": len(rows), "size": size})
    return shares


def _read_plan(path: Path) -> dict[str, Any] | None:
    """What is being embedded; None where nothing is. Raises DataError for a damaged file."""
    if not path.is_file():
        return None
    plan = read_json(path, f"delete {path}")
    if not isinstance(plan, dict) or not {"digest", "first", "shards"} <= plan.keys():
        raise DataError(f"{path} is damaged: delete it, and give the same command again")
    return plan


def _missing(store: VectorStore, embedder: MLLMEmbedder, listing: Listing) -> list[int]:
    """The rows whose ids are not in the store, but for those that could not be read before and still cannot."""
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


def _make_shard(
    embedder: MLLMEmbedder,
    listing: Listing,
    store: VectorStore,
    name: str,
    rows: Sequence[int],
    batch_size: int,
    bar: tqdm,
) -> _Made:
    """Embed the rows of one shard and write it."""
    items: list[Item] = []
    places: list[str | None] = []
    lost: dict[int, str] = {}  # by row
    read: list[int] = []
    for row in rows:
        try:
            item, place = listing.read(row)
        except (ImageError, DataError) as error:
            lost[row] = str(error)
            bar.update(1)
            continue
        items.append(item)
        places.append(place)
        read.append(row)
    unreadable: dict[int, str] = {}
    work = embedder.plan(items, batch_size=batch_size, unreadable=unreadable)
    vectors = truncate(embedder.execute(work, bar=bar), embedder.dim)
    lost |= {read[at]: reason for at, reason in unreadable.items()}
    if len(lost) == len(rows) >= _HOPELESS:
        raise DataError(
            f"none of {len(rows):,} rows can be read, the first since {lost[rows[0]]}: mend the paths in "
            f"{listing.where(rows[0])}, or leave those rows out"
        )
    kept = [at for at in range(len(items)) if at not in unreadable]
    bad = [at for at in kept if not np.isfinite(vectors[at]).all()]
    if bad:
        raise ModelError(
            f"the vector of {listing.where(read[bad[0]])} holds NaN: nothing can be near it; mend the model, or try "
            "--dtype float32"
        )
    write_shard(
        store.folder,
        name,
        store.dtype,
        [listing.ids[read[at]] for at in kept],
        vectors[kept],
        [places[at] for at in kept],
        [{"id": listing.ids[row], "source": listing.where(row), "reason": lost[row]} for row in sorted(lost)],
    )
    return _Made(len(kept), len(lost), work.given, work.planned)


def _finished(path: Path, shares: ShardPlan, listing: Listing) -> VectorStore | None:
    """The store with all shards of the plan, None where some are still being made."""
    store, told = VectorStore(path), path / PLAN
    plan = _read_plan(told)
    if plan and plan["digest"] == shares.digest:
        if not all(_is_made(path, name) for name in shares.names):
            return None
        store.commit(shares.names, listing.facts())
        _write_unreadable(store)
        told.unlink()
        _sweep(store)
    if not len(store):
        first = next(iter(store.lost), {"reason": "there are none"})
        raise DataError(f"{path} has got no vector: none of the rows can be read, the first since {first['reason']}")
    return store


def _write_unreadable(store: VectorStore) -> None:
    there, path = set(store.living), store.folder / UNREADABLE
    lost = {entry["id"]: entry for entry in store.lost if entry["id"] not in there}
    if lost:
        write_file(path, "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in lost.values()).encode())
    else:
        path.unlink(missing_ok=True)


def _sweep(store: VectorStore) -> None:
    """Remove what killed processes left half-written, and shards of plans that were given up."""
    known = {shard.name for shard in store.shards}
    for path in (store.folder / SHARDS).iterdir():
        if path.name.endswith(".tmp") or path.stem not in known:
            path.unlink(missing_ok=True)
    (store.folder / CLAIMS).unlink(missing_ok=True)


def _is_made(path: Path, name: str) -> bool:
    return (path / SHARDS / f"{name}.json").is_file()


def _bar(rows: int, done: int, show: bool | None) -> tqdm:
    hide = None if show is None else not show
    return tqdm(total=rows, initial=done, desc="embedding", unit="row", disable=hide, mininterval=1)


def _rate(made: Sequence[_Made], bar: tqdm) -> float:
    """Tokens a second, of those that the inputs have."""
    return sum(shard.given.tokens for shard in made) / max(bar.format_dict["elapsed"], 1e-9)


def _digest(ids: Sequence[str], size: int) -> str:
    return hashlib.sha256(json.dumps([size, ids]).encode()).hexdigest()
