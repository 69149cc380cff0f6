"""Which rows a call embeds: those of a listing that the store has not got, and that no other call is embedding."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..encode.embedder import MLLMEmbedder
from ..errors import ConfigError, DataError, ImageError
from ..files import check_space
from ..saving.provenance import LEXICAL, VECTOR_FIELDS, check_same
from .files import MANIFEST, written_shards
from .freshness import Contents, Survey, survey
from .plans import FORMER_PLAN, Plan, former_plan, next_number, read_plans, sweep
from .vector_store import VectorStore


@dataclass
class Work:
    """What a call has to do.

    Args:
        plans: whose shards it makes, those of other calls on the same rows among them.
        held: shards with rows of its own that calls on other rows are making.
        found: its other rows, against the store.
        taken_in: rows of calls that were stopped, and belong to the store from now on.
    """

    plans: list[Plan] = field(default_factory=list)
    held: int = 0
    found: Survey = field(default_factory=Survey)
    taken_in: int = 0


def opened(path: Path, embedder: MLLMEmbedder, dtype: str | None) -> VectorStore:
    """Return the store in a folder, new or as it is. Raises ConfigError where its vectors are others."""
    if not (path / MANIFEST).is_file():
        return VectorStore.create(path, embedder.dimension, dtype=dtype or "float32", provenance=embedder.provenance)
    store = VectorStore(path)
    store.verify_small()
    check_same(store.provenance, embedder.provenance, (*VECTOR_FIELDS, LEXICAL), path)
    if dtype and store.dtype != dtype:
        raise ConfigError(
            f"{path} keeps {store.dtype}, not {dtype}: give --store-dtype {store.dtype}, or another store"
        )
    return store


def plan_work(
    store: VectorStore, embedder: MLLMEmbedder, contents: Contents, settled: Collection[int], size: int
) -> Work:
    """Return what there is to do, and plan it where no plan has it; called under the lock of the store's folder.

    A plan all of whose rows the listing has is worked on, whoever made it. Any other that a process works on is left
    to it. What a stopped call has made of any other belongs to the store from now on.

    Args:
        store: as it is now.
        embedder: the model.
        contents: of the listing.
        settled: rows that need not be looked at.
        size: rows a shard, of a new plan.

    Raises:
        DataError: an id is that of another source's row and holds something else, or there is no room on the disk.
    """
    work = Work()
    others = _sort_plans(store, contents, work)
    sweep(store.folder, store.files)
    taken = {contents.row_of[name] for plan in work.plans for name in plan.ids}
    for plan in others:
        theirs = _shared(plan, contents)
        taken.update(contents.row_of[plan.ids[at]] for at in theirs)
        work.held += len({at // plan.size for at in theirs})
    rows = [row for row in range(len(contents.listing)) if row not in taken and row not in settled]
    work.found = survey(store, contents, rows)
    needed = _readable(store, embedder, contents, sorted(work.found.new + work.found.changed))
    if needed:
        work.plans.append(_new_plan(store, contents, needed, size))
    return work


def _new_plan(store: VectorStore, contents: Contents, rows: Sequence[int], size: int) -> Plan:
    """Let other processes know that these rows are being embedded. Raises DataError where there is no room for them."""
    ids, origins = [contents.listing.ids[row] for row in rows], [contents.origins[row] for row in rows]
    plan = Plan(store.folder, next_number(store.folder), size, ids, origins)
    room = len(rows) * store.dimension * store.dtype.itemsize
    check_space(store.folder, room, f"the vectors of {len(rows):,} rows")
    return plan.write()


def _sort_plans(store: VectorStore, contents: Contents, work: Work) -> list[Plan]:
    """Take on the plans that the listing has all rows of, end those that nobody works on, and return the others."""
    others = []
    for plan in read_plans(store.folder):
        if all(contents.origin_of(name) == origin for name, origin in plan.origin_of.items()):
            work.plans.append(plan)
        elif plan.is_alive:
            others.append(plan)
        else:
            work.taken_in += _take_in(store, plan.made())
            plan.end()
    work.taken_in += _end_former(store)
    return others


def _take_in(store: VectorStore, names: Iterable[str]) -> int:
    """Let shards belong to the store, and return how many rows they have."""
    before = len(store)
    store.commit(names)
    return len(store) - before


def _end_former(store: VectorStore) -> int:
    """Let what earlier versions were making belong to the store as far as it was made; return how many rows it has."""
    numbers = former_plan(store.folder)
    if numbers is None:
        return 0
    rows = _take_in(store, [name for name in written_shards(store.folder) if int(name) in numbers])
    (store.folder / FORMER_PLAN).unlink()
    return rows


def _shared(plan: Plan, contents: Contents) -> list[int]:
    """Return which of a plan's rows the listing has. Raises DataError where one of them is another source's there."""
    shared = [at for at, name in enumerate(plan.ids) if name in contents.row_of]
    for name, origin in ((plan.ids[at], plan.origins[at]) for at in shared):
        if origin != contents.origin_of(name):
            raise DataError(
                f'the id "{name}" is being embedded into {plan.folder} from {origin} by another process, and is in '
                f"{contents.origin_of(name)} too: wait for that, or give one of them another id or another store"
            )
    return shared


def _readable(store: VectorStore, embedder: MLLMEmbedder, contents: Contents, rows: Iterable[int]) -> list[int]:
    """Return rows but for those that could not be read before, and still cannot."""
    lost = {entry["id"] for entry in store.lost}
    return [row for row in rows if contents.listing.ids[row] not in lost or _is_readable(embedder, contents, row)]


def _is_readable(embedder: MLLMEmbedder, contents: Contents, row: int) -> bool:
    try:
        embedder.item_processor.prepared(contents.listing.read(row)[0])
    except (ImageError, DataError):
        return False
    return True
