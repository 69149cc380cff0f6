"""From sources to a vector store: a shard at a time, by as many processes as there are, and never twice.

    STORE/plan.json          the rows that are being embedded, cut into shards, until all of them are done
    STORE/unreadable.jsonl   rows that could not be read: id, source, reason

A shard is planned and embedded by itself, so that its vectors do not depend on which process makes it, and when. Each
process makes shards that are not there and that no other process has claimed; one that dies gives up its claims. The
process that finds all of them made lets them belong to the store.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ..data.sources import Listing
from ..encode.cost import Cost, total
from ..encode.embedder import MLLMEmbedder
from ..errors import ConfigError, DataError, ImageError, ModelError
from ..files import folder_lock, json_bytes, write_file
from ..saving.provenance import VECTOR_FIELDS, check_same
from ..types import Item
from ..vectors.precision import truncate
from .claims import claim, own_first
from .files import MANIFEST, SHARDS, record_file, write_shard
from .shard_plan import PLAN, ShardPlan, plan_shards, read_plan
from .vector_store import VectorStore

UNREADABLE = "unreadable.jsonl"
_FORMER_CLAIMS = ".claims"  # one file for the claims of all shards, of earlier versions
SHARD_ROWS = 4096
"""Rows of a shard that is embedded, which a kill may cost."""
_HOPELESS = 64  # rows of which not one can be read: it is the paths that are wrong


class _MadeShard(NamedTuple):
    """What this process did for one shard: rows with a vector, rows without, and the work as given and as planned."""

    rows: int
    lost: int
    given: Cost
    planned: Cost


@dataclass
class _ShardRows:
    """The rows of a shard: those that could be read with their items and sources, and why the others could not."""

    read: list[int] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    sources: list[str | None] = field(default_factory=list)
    lost: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Extracted:
    """The result of `encode_sources`.

    Args:
        store: the store; None where other processes still make a part of it.
        rows: rows that this process embedded.
        held: shards that other processes were making when this one found nothing left to do.
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
        listing: what to embed, from `open_sources`.
        folder: of the store, which is made where there is none.
        dtype: "float32", "float16" or "int8"; by default that of the store, float32 for a new one.
        shard_rows: rows a shard: what a kill may cost.
        batch_size: as of `MLLMEmbedder.encode`.
        show_progress: None shows a bar on a terminal.

    Raises:
        ConfigError: the store was made by another model, prompt, dtype or number format.
        DataError: nothing of a shard can be read, or the disk is full.
        ModelError: a vector holds NaN.
    """
    path = Path(folder)
    with folder_lock(path, wait=True):
        store = _opened(path, embedder, dtype)
        plan = plan_shards(store, embedder, listing, shard_rows)
    made, held = _make_missing(embedder, listing, store, plan, batch_size, show_progress)
    # not locked while shards are made, which takes hours: processes plan one by one, and then all of them make
    with folder_lock(path, wait=True):
        whole = _finished(path, plan, listing)
    return Extracted(
        whole,
        sum(shard.rows for shard in made),
        held,
        sum(shard.lost for shard in made),
        total([shard.given for shard in made]),
        total([shard.planned for shard in made]),
    )


def _opened(path: Path, embedder: MLLMEmbedder, dtype: str | None) -> VectorStore:
    """Return the store in a folder, new or as it is. Raises ConfigError where its vectors are others."""
    if not (path / MANIFEST).is_file():
        return VectorStore.create(path, embedder.dimension, dtype=dtype or "float32", provenance=embedder.provenance)
    store = VectorStore(path)
    check_same(store.provenance, embedder.provenance, VECTOR_FIELDS, path)
    if dtype and store.dtype != dtype:
        raise ConfigError(
            f"{path} keeps {store.dtype}, not {dtype}: give --store-dtype {store.dtype}, or another store"
        )
    return store


def _make_missing(
    embedder: MLLMEmbedder,
    listing: Listing,
    store: VectorStore,
    plan: ShardPlan,
    batch_size: int,
    show_progress: bool | None,
) -> tuple[list[_MadeShard], int]:
    """Make the shards that are not there and that no other process has claimed; return them, and how many one had."""
    made: list[_MadeShard] = []
    held = 0
    missing = [(name, rows) for name, rows in plan if not _is_made(store, name)]
    done = len(plan.rows) - sum(len(rows) for _, rows in missing)
    with _bar(len(plan.rows), done, show_progress) as bar:
        for name, rows in own_first(missing):
            with claim(store.folder / SHARDS, name) as mine:
                if not mine:
                    held += 1
                elif _is_made(store, name):  # by another process, since
                    bar.update(len(rows))
                else:
                    made.append(_make_shard(embedder, listing, store, name, rows, batch_size, bar))
                    bar.set_postfix_str(f"{_rate(made, bar):,.0f} tokens/s", refresh=False)
    return made, held


def _make_shard(
    embedder: MLLMEmbedder,
    listing: Listing,
    store: VectorStore,
    name: str,
    rows: Sequence[int],
    batch_size: int,
    bar: tqdm,
) -> _MadeShard:
    """Embed the rows of one shard and write it."""
    shard = _read_rows(listing, rows, bar)
    work = embedder.plan(shard.items, batch_size=batch_size, skip_unreadable=True)
    encoded = embedder.execute(work, bar=bar)
    vectors, unreadable = truncate(encoded.vectors, embedder.dim), encoded.failures
    lost = shard.lost | {shard.read[at]: reason for at, reason in unreadable.items()}
    if len(lost) == len(rows) >= _HOPELESS:
        raise DataError(
            f"none of {len(rows):,} rows can be read, the first since {lost[rows[0]]}: mend the paths in "
            f"{listing.where(rows[0])}, or leave those rows out"
        )
    embedded = [at for at in range(len(shard.items)) if at not in unreadable]
    _check_finite(vectors, embedded, shard, listing)
    write_shard(
        store.folder,
        name,
        store.dtype,
        [listing.ids[shard.read[at]] for at in embedded],
        vectors[embedded],
        [shard.sources[at] for at in embedded],
        [{"id": listing.ids[row], "source": listing.where(row), "reason": lost[row]} for row in sorted(lost)],
    )
    return _MadeShard(len(embedded), len(lost), work.given, work.planned)


def _read_rows(listing: Listing, rows: Sequence[int], bar: tqdm) -> _ShardRows:
    """Read the rows of a shard; the bar moves on by those that cannot be read."""
    shard = _ShardRows()
    for row in rows:
        try:
            item, source = listing.read(row)
        except (ImageError, DataError) as error:
            shard.lost[row] = str(error)
            bar.update(1)
            continue
        shard.read.append(row)
        shard.items.append(item)
        shard.sources.append(source)
    return shard


def _check_finite(vectors: np.ndarray, places: Sequence[int], shard: _ShardRows, listing: Listing) -> None:
    """Raise ModelError for the first of some vectors of [N, D] float32 that holds NaN or infinite numbers."""
    bad = next((at for at in places if not np.isfinite(vectors[at]).all()), None)
    if bad is not None:
        raise ModelError(
            f"the vector of {listing.where(shard.read[bad])} holds NaN: nothing can be near it; mend the model, or try "
            "--dtype float32"
        )


def _finished(path: Path, plan: ShardPlan, listing: Listing) -> VectorStore | None:
    """Return the store with all shards of the plan, None where some are still being made."""
    store = VectorStore(path)
    current = read_plan(path / PLAN)
    # another process may have finished this plan, or planned anew: then there is nothing left to do here
    if current and current["digest"] == plan.digest:
        if not all(_is_made(store, name) for name in plan.names):
            return None
        store.commit(plan.names, listing.facts())
        _write_unreadable(store)
        (path / PLAN).unlink()
        _sweep(store)
    if not len(store):
        first = next(iter(store.lost), {"reason": "there are none"})
        raise DataError(f"{path} has got no vector: none of the rows can be read, the first since {first['reason']}")
    return store


def _write_unreadable(store: VectorStore) -> None:
    """List what could not be read and has no vector, a line each; no file where there is none."""
    there, path = set(store.living), store.folder / UNREADABLE
    lost = {entry["id"]: entry for entry in store.lost if entry["id"] not in there}
    if lost:
        write_file(path, b"".join(map(json_bytes, lost.values())))
    else:
        path.unlink(missing_ok=True)


def _sweep(store: VectorStore) -> None:
    """Remove what killed processes left, half-written files and claims, and shards of plans that were given up."""
    known = {shard.name for shard in store.shards}
    for path in (store.folder / SHARDS).iterdir():
        if path.name.endswith(".tmp") or path.stem not in known:
            with suppress(PermissionError):  # a claim that another process still has open, on Windows
                path.unlink(missing_ok=True)
    (store.folder / _FORMER_CLAIMS).unlink(missing_ok=True)


def _is_made(store: VectorStore, name: str) -> bool:
    return record_file(store.folder, name).is_file()


def _bar(rows: int, done: int, show: bool | None) -> tqdm:
    hide = None if show is None else not show
    return tqdm(total=rows, initial=done, desc="embedding", unit="row", disable=hide, mininterval=1)


def _rate(made: Sequence[_MadeShard], bar: tqdm) -> float:
    """Return the tokens of the inputs that are embedded in a second."""
    return sum(shard.given.tokens for shard in made) / max(bar.format_dict["elapsed"], 1e-9)
