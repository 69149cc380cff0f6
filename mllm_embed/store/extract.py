"""From sources to a vector store: a shard at a time, by as many processes as there are, and never twice.

    STORE/plans/             the rows that are being embedded, as of `plans`, until all of them are done
    STORE/unreadable.jsonl   rows that could not be read: id, source, reason

A shard is planned and embedded by itself, so that its vectors do not depend on which process makes it, and when. Each
process makes shards that are not there and that no other process has claimed; one that dies gives up its claims. The
process that finds all of them made lets them belong to the store; then it looks again at what others had made before it
came, and ends when there is nothing left to do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ..data.sources import Listing
from ..encode.cost import Cost, total
from ..encode.embedder import MLLMEmbedder
from ..encode.encoder import check_unit_length
from ..errors import DataError
from ..files import json_bytes, write_file
from ..locks import folder_lock
from ..saving.provenance import check_thoughts
from .files import MANIFEST, SHARDS, write_shard
from .freshness import Contents, Survey, gone, moved, survey
from .kept.changes import Revalued, Values, check_given
from .kept.lexical import write_lexical
from .kept.listed import ListedValues
from .plans import Plan, claim, own_first
from .shard_plan import opened, plan_work
from .shard_rows import check_avoided, check_finite, check_listed_thoughts, embedded, read_rows
from .vector_store import VectorStore

UNREADABLE = "unreadable.jsonl"
SHARD_ROWS = 4096
"""Rows of a shard that is embedded, which a kill may cost."""
_HOPELESS = 64  # rows of which not one can be read: it is the paths that are wrong


class _MadeShard(NamedTuple):
    """What this process did for one shard: rows with a vector, those of them that had another before, rows without, and
    the work as given and as planned."""

    rows: int
    changed: int
    lost: int
    given: Cost
    planned: Cost


@dataclass(frozen=True)
class Extracted:
    """The result of `encode_sources`.

    Args:
        store: the store; None where other processes still make a part of it.
        rows: rows that this process embedded.
        held: shards that other processes were making when this one found nothing left to do.
        lost: rows that this process could not read.
        given, planned: the work on its rows as they were, and as it was planned.
        changed: rows of `rows` that held something else before, whose old vectors went.
        found: the rows that were there already, against the store.
        taken_in: rows that calls which were stopped had made, and that belong to the store now.
        gone: rows in the store that its sources have not got any more; they stay.
        moved: unchanged rows whose pictures lie elsewhere now than the store says.
        revalued: rows that were there before, and have other values in kept columns now.
    """

    store: VectorStore | None
    rows: int
    held: int
    lost: int
    given: Cost
    planned: Cost
    changed: int = 0
    found: Survey = field(default_factory=Survey)
    taken_in: int = 0
    gone: int = 0
    moved: int = 0
    revalued: Revalued = field(default_factory=Revalued)


def encode_sources(
    embedder: MLLMEmbedder,
    listing: Listing,
    folder: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    shard_rows: int = SHARD_ROWS,
    batch_size: int = 32,
    keep: Sequence[str] = (),
    show_progress: bool | None = None,
) -> Extracted:
    """Embed what the store in `folder` has not got yet; a stopped or killed call goes on where it was.

    A row is known by its id and by what it holds: one that has changed since is embedded anew, and its new vector takes
    the place of the old one. A row without one, which an earlier version or `VectorStore.add` made, is taken as
    unchanged. Rows that cannot be read are left out and listed in unreadable.jsonl; the next call tries them again.
    Columns that the store keeps are read from the sources each time: other values alone cost no embedding.

    Called by several processes at once, on one machine or several that see the same folders by the same paths, each
    makes a part. Calls with other sources make theirs beside them.

    Args:
        embedder: the model; that of the store where there is one.
        listing: what to embed, from `open_sources`.
        folder: of the store, which is made where there is none.
        dtype: "float32", "float16" or "int8"; by default that of the store, float32 for a new one.
        shard_rows: rows a shard: what a kill may cost.
        batch_size: as of `MLLMEmbedder.encode`.
        keep: columns of the sources to keep beside the vectors, besides those that the store keeps already.
        show_progress: None shows a bar on a terminal.

    Raises:
        ConfigError: the store was made by another model, prompt, dtype or number format, or a row avoids something of
            which the model's vectors take nothing.
        DataError: nothing of a shard can be read, a file of rows was changed since it was listed, the disk is full,
            an id is that of another source's row, in the store or in another call, and holds something else, or a
            column to keep has a value that none can hold.
        ModelError: a vector holds NaN.
    """
    return _Call(embedder, listing, Path(folder), dtype, shard_rows, batch_size, keep, show_progress).run()


class _Call:
    """A call of `encode_sources`, and what it has seen and done so far."""

    def __init__(
        self,
        embedder: MLLMEmbedder,
        listing: Listing,
        path: Path,
        dtype: str | None,
        shard_rows: int,
        batch_size: int,
        keep: Sequence[str],
        show_progress: bool | None,
    ):
        """Take the arguments of `encode_sources`."""
        self.embedder, self.listing, self.path, self.dtype = embedder, listing, path, dtype
        self.shard_rows, self.batch_size, self.show_progress = shard_rows, batch_size, show_progress
        self.contents, self.keep, self.values = Contents(listing), keep, ListedValues(listing)
        self.settled: set[int] = set()  # rows that are in the store as they are, or cannot be read
        self.made: list[_MadeShard] = []
        self.found, self.taken_in, self.revalued = Survey(), 0, Revalued()

    def run(self) -> Extracted:
        """Work until there is nothing left to do, or only what other processes are doing."""
        check_unit_length(self.embedder, "a store")  # before its folder is there
        check_avoided(self.embedder, self.listing)
        if (self.path / MANIFEST).is_file():  # takes long, so that it is not done while others wait
            rows = tqdm(range(len(self.listing)), desc="comparing", unit="row", disable=_hide(self.show_progress))
            store = opened(self.path, self.embedder, self.dtype)
            check_listed_thoughts(store, self.embedder.provenance, self.listing)
            survey(store, self.contents, rows)
            check_given(store, self.values.of(tuple(dict.fromkeys((*store.kept, *self.keep)))))
        while True:
            held, todo = self._pass()
            if held or not todo:
                break
        self._revalue()
        if held:
            return self._result(None, held)
        store = VectorStore(self.path)
        if not len(store):
            first = next(iter(store.lost), {"reason": "there are none"})
            raise DataError(
                f"{self.path} has got no vector: none of the rows can be read, the first since {first['reason']}"
            )
        return self._result(store, 0)

    def _pass(self) -> tuple[int, bool]:
        """Do what is to be done now; return how many shards others have, and whether there was anything to do."""
        with ExitStack() as at_work:
            with folder_lock(self.path, wait=True):
                store = self._store()
                if not set(self.keep) <= set(store.kept):  # before the work, so that who goes on with it keeps them too
                    store.commit((), (), Values.named(self.keep))
                work = plan_work(store, self.embedder, self.contents, self.settled, self.shard_rows)
                for plan in work.plans:
                    at_work.enter_context(plan.at_work())
            self._note(work.found)
            self.taken_in += work.taken_in
            before = {plan.first: set(plan.made()) for plan in work.plans}
            # not locked while shards are made, which takes hours: processes plan one by one, and then all of them make
            for plan in work.plans:
                self.made += _make_missing(
                    self.embedder, self.contents, store, plan, self.batch_size, self.show_progress
                )
            held = [self._finish(plan, before[plan.first]) for plan in work.plans]
        return work.held + sum(held), bool(work.plans)

    def _store(self) -> VectorStore:
        """Return the store as it is now. Raises DataError where it is not the one that was there before."""
        if self.settled and not (self.path / MANIFEST).is_file():
            raise _was_removed(self.path)
        store = opened(self.path, self.embedder, self.dtype)
        if self.settled:
            there = {*store.ids, *(entry["id"] for entry in store.lost)}
            if any(self.listing.ids[row] not in there for row in self.settled):
                raise _was_removed(self.path)
        return store

    def _note(self, found: Survey) -> None:
        """Remember rows that are in the store."""
        for mine, others in ((self.found.unchanged, found.unchanged), (self.found.unknown, found.unknown)):
            mine += others
            self.settled.update(others)

    def _finish(self, plan: Plan, before: set[str]) -> int:
        """Let the shards of a plan belong to the store where all of them are made; return how many are not.

        Its rows are settled then, but for those that were made before this call and perhaps have changed.
        """
        if not (self.path / MANIFEST).is_file():
            raise _was_removed(self.path)
        with folder_lock(self.path, wait=True):
            if not plan.stands:  # another process has finished it
                return 0
            if missing := len(plan.parts) - len(plan.made()):
                return missing
            store = VectorStore(self.path)
            self.revalued += store.commit(plan.parts, self.listing.facts(), self.values.of(store.kept))
            _write_unreadable(store)
            plan.end()
        for name, rows in plan.parts.items():
            if name not in before:
                self.settled.update(self.contents.row_of[id] for id in plan.ids[rows.start : rows.stop])
        return 0

    def _revalue(self) -> None:
        """Let the rows of the listing have the values that its sources have now."""
        if VectorStore(self.path).kept:
            with folder_lock(self.path, wait=True):
                store = VectorStore(self.path)
                self.revalued += store.commit((), (), self.values.of(store.kept))

    def _result(self, store: VectorStore | None, held: int) -> Extracted:
        # of a store of its own: what is read of it would travel with the result where a worker returns it
        read = None if store is None else VectorStore(self.path)
        return Extracted(
            store,
            sum(shard.rows for shard in self.made),
            held,
            sum(shard.lost for shard in self.made),
            total([shard.given for shard in self.made]),
            total([shard.planned for shard in self.made]),
            sum(shard.changed for shard in self.made),
            self.found,
            self.taken_in,
            0 if read is None else gone(read, self.contents),
            0 if read is None else moved(read, self.contents, self.found.unchanged),
            self.revalued,
        )


def _was_removed(path: Path) -> DataError:
    return DataError(f"{path} was removed, or made anew, while it was being filled: give the same command again")


def _make_missing(
    embedder: MLLMEmbedder,
    contents: Contents,
    store: VectorStore,
    plan: Plan,
    batch_size: int,
    show_progress: bool | None,
) -> list[_MadeShard]:
    """Make the shards that are not there and that no other process has claimed, and return what was done."""
    made: list[_MadeShard] = []
    missing: list[tuple[str, Sequence[int]]] = [part for part in plan.parts.items() if not plan.is_made(part[0])]
    done = len(plan.ids) - sum(len(rows) for _, rows in missing)
    with _bar(len(plan.ids), done, show_progress) as bar:
        for name, rows in own_first(missing):
            if not plan.stands:  # done by others, or the store was removed
                break
            with claim(store.folder / SHARDS, name) as mine:
                if mine and plan.is_made(name):  # by another process, since
                    bar.update(len(rows))
                elif mine:
                    made.append(_make_shard(embedder, contents, store, plan, name, batch_size, bar))
                    bar.set_postfix_str(f"{_rate(made, bar):,.0f} tokens/s", refresh=False)
    return made


def _make_shard(
    embedder: MLLMEmbedder,
    contents: Contents,
    store: VectorStore,
    plan: Plan,
    name: str,
    batch_size: int,
    bar: tqdm,
) -> _MadeShard:
    """Embed the rows of one shard of a plan and write it."""
    listing = contents.listing
    rows = [contents.row_of[plan.ids[at]] for at in plan.parts[name]]
    shard = read_rows(contents, rows, bar)
    check_thoughts(store.provenance, embedder.provenance, shard.items, store.folder)
    work = embedder.plan(shard.items, batch_size=batch_size, skip_unreadable=True)
    vectors, counts, words = embedded(embedder, work, shard, bar)
    if not shard.read and len(rows) >= _HOPELESS:
        raise DataError(
            f"none of {len(rows):,} rows can be read, the first since {shard.lost[rows[0]]}: mend the paths in "
            f"{listing.where(rows[0])}, or leave those rows out"
        )
    check_finite(vectors, counts, shard, listing)
    if not plan.stands:  # nor may there be a file in what came to the store's place
        raise _was_removed(store.folder)
    ids = [listing.ids[row] for row in shard.read]
    origins = [contents.origins[row] for row in shard.read]
    write_shard(
        store.folder, name, store.dtype, ids, vectors, shard.sources, shard.unread(listing), shard.digests, origins,
        counts, write_lexical(store.folder, name, words),
    )  # fmt: skip
    changed = sum(name in store.living for name in ids)
    return _MadeShard(len(ids), changed, len(shard.lost), work.given, work.planned)


def _write_unreadable(store: VectorStore) -> None:
    """List what could not be read, a line each; no file where there is none."""
    path = store.folder / UNREADABLE
    if store.lost:
        write_file(path, b"".join(map(json_bytes, store.lost)))
    else:
        path.unlink(missing_ok=True)


def _bar(rows: int, done: int, show: bool | None) -> tqdm:
    return tqdm(total=rows, initial=done, desc="embedding", unit="row", disable=_hide(show), mininterval=1)


def _hide(show: bool | None) -> bool | None:
    """Return what tqdm calls `disable`: None shows a bar on a terminal."""
    return None if show is None else not show


def _rate(made: Sequence[_MadeShard], bar: tqdm) -> float:
    """Return the tokens of the inputs that are embedded in a second."""
    return sum(shard.given.tokens for shard in made) / max(bar.format_dict["elapsed"], 1e-9)
