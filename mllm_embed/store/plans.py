"""Plans of what is being embedded into a store: any number of them side by side, none of which share a row.

    STORE/plans/000000.json       a plan: number of the first shard, rows a shard, ids and sources of all rows
    STORE/plans/.000000.*.lock    locked by each process that works on it: one that died is told from one at work
    STORE/shards/.000000.lock     locked by the process that makes a shard

A plan is the promise that its rows will be in the store, and has the numbers of its shards to itself. Whoever has the
same rows may make any of its shards; the process that finds all of them made lets them belong to the store.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import read_json, write_json
from ..locks import LOCK_FILE, file_lock
from ..saving.provenance import LEXICAL
from .files import SHARDS, read_shard, record_file, shard_name, written_shards
from .manifest import read_manifest
from .records import runs

PLANS = "plans"
FORMER_PLAN = "plan.json"
"""The plan of earlier versions, which knew one at a time."""
_FORMER_CLAIMS = ".claims"  # one file for the claims of all shards, of earlier versions
LOOSE_CURE = (
    "a process was killed while it added them, or the manifest is not the newest; restore that, or give the same "
    "`mllm-embed encode` again, which embeds what is missing"
)
"""What to do about shards that no manifest names."""


@dataclass(frozen=True)
class Plan:
    """Rows that are being embedded, cut into shards.

    Args:
        folder: of the store.
        first: number of the first shard.
        size: rows a shard.
        ids: of the rows, in order.
        origins: the source of each row.
        stamp: what tells the plan's file from any other that may come to its place.
    """

    folder: Path
    first: int
    size: int
    ids: list[str]
    origins: list[str] = field(repr=False)
    stamp: tuple[int, ...] | None = None

    @property
    def path(self) -> Path:
        """The plan's file."""
        return self.folder / PLANS / f"{shard_name(self.first)}.json"

    @cached_property
    def parts(self) -> dict[str, range]:
        """Which rows of the plan each shard has, by its name."""
        starts = range(0, len(self.ids), self.size)
        parts = [range(start, min(start + self.size, len(self.ids))) for start in starts]
        return {shard_name(self.first + at): part for at, part in enumerate(parts)}

    @cached_property
    def origin_of(self) -> dict[str, str]:
        """The source of each id."""
        return dict(zip(self.ids, self.origins, strict=True))

    @property
    def numbers(self) -> range:
        """The numbers of its shards, which no other plan may use."""
        return range(self.first, self.first + len(self.parts))

    def write(self) -> Plan:
        """Let other processes know of the plan, and return it as they see it."""
        content = {"first": self.first, "size": self.size, "ids": self.ids, "origins": runs(self.origins)}
        write_json(self.path, content)
        return replace(self, stamp=_stamp(self.path))

    @property
    def stands(self) -> bool:
        """Whether it is still to be done: not when another process has done it, or the store was removed."""
        return self.stamp is not None and _stamp(self.path) == self.stamp

    def is_made(self, name: str) -> bool:
        """Tell whether a shard of the plan is written; a file of that name which has other rows is not."""
        if not record_file(self.folder, name).is_file():
            return False
        rows = self.parts[name]
        with suppress(DataError):
            return read_shard(self.folder, name)[1].row_names() == set(self.ids[rows.start : rows.stop])
        return False  # damaged: it is made again

    def made(self) -> list[str]:
        """Return the names of the shards that are written, in order."""
        return [name for name in self.parts if self.is_made(name)]

    def at_work(self) -> AbstractContextManager[bool]:
        """Let other processes see, while the result is entered, that one works on the plan."""
        return file_lock(self.path.with_name(f".{self.path.stem}.{os.getpid()}-{uuid.uuid4().hex}.lock"))

    @property
    def is_alive(self) -> bool:
        """Whether a process works on it; of those that died what they left is removed."""
        return any(map(_is_held, self.path.parent.glob(f".{self.path.stem}.*.lock")))

    def end(self) -> None:
        """Remove the plan, which is done or given up."""
        self.path.unlink(missing_ok=True)


def own_first(shards: list[tuple[str, Sequence[int]]]) -> list[tuple[str, Sequence[int]]]:
    """Return named shards in an order in which processes that torchrun has numbered seldom want the same one."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return sorted(shards, key=lambda shard: (int(shard[0]) - rank) % world)


def claim(folder: Path, name: str) -> AbstractContextManager[bool]:
    """Claim a shard in the folder of shards while the result is entered; gives False where another process has it.

    A claim is a lock, as of `file_lock`, on a file beside the shard, so that a process that dies gives up its claim.
    Should two processes claim one shard all the same, on a file system without locks between machines, they do the
    work twice: a shard is renamed into its place as a whole, and is the same to the byte whoever made it.
    """
    return file_lock(folder / f".{name}.lock")


def read_plans(folder: Path) -> list[Plan]:
    """Return the plans of the store in a folder, in order. Raises DataError for a damaged one."""
    return [_read(folder, path) for path in sorted((folder / PLANS).glob("[0-9]*.json"))]


def check_new(folder: Path, provenance: Mapping[str, Any], ids: Iterable[str], there: Collection[str]) -> None:
    """Raise DataError for an id that is given twice, is there, or is being embedded into the store in a folder, and for
    a store of a `provenance` whose rows have lexical vectors, which are not given."""
    if provenance.get(LEXICAL):
        raise DataError(
            f"the rows of {folder} have lexical vectors, and vectors alone cannot be added to it: encode them with "
            "`mllm-embed encode`, which makes both"
        )
    seen: set[str] = set()
    planned = dict(chain.from_iterable(plan.origin_of.items() for plan in read_plans(folder)))
    for name in ids:
        if name in seen:
            raise DataError(f'the id "{name}" is given twice')
        if name in there:
            raise DataError(f'the id "{name}" is in {folder} already: remove it first, or give another')
        if name in planned:
            raise DataError(
                f'the id "{name}" is being embedded into {folder} from {planned[name]}: finish that '
                "`mllm-embed encode` first, or give another id"
            )
        seen.add(name)


def check_unplanned(folder: Path, ids: Collection[str]) -> None:
    """Raise DataError for an id that a process is embedding anew into the store in a folder."""
    for plan in read_plans(folder):
        name = next(filter(plan.origin_of.__contains__, ids), None)
        if name is not None and plan.is_alive:
            raise DataError(
                f'the id "{name}" is being embedded anew into {folder} from {plan.origin_of[name]}: wait for that'
            )


def next_number(folder: Path) -> int:
    """Return the first number that is beyond all shards of a store, those that are only planned too."""
    written = written_shards(folder)
    return max([int(written[-1]) + 1 if written else 0, *(plan.numbers.stop for plan in read_plans(folder))])


def former_plan(folder: Path) -> range | None:
    """Return the numbers of the shards that an earlier version was making; None where it left none."""
    path = folder / FORMER_PLAN
    if not path.is_file():
        return None
    plan = read_json(path, f"delete {path}")
    if not isinstance(plan, dict) or not all(type(plan.get(key)) is int for key in ("first", "shards")):
        raise DataError(f"{path} is damaged: delete it, and give the same command again")
    return range(plan["first"], plan["first"] + plan["shards"])


def loose_shards(folder: Path) -> list[str]:
    """Return the names of whole shards that belong neither to the store in a folder nor to a plan.

    They are of a process that was killed while it added them, or the manifest is not the newest.
    """
    if not _unnamed(folder):
        return []
    with suppress(PermissionError), file_lock(folder / LOCK_FILE) as free:
        if not free:
            return []  # a process is adding them just now
    return _unnamed(folder)


def warn_of_loose_shards(folder: Path) -> None:
    """Warn where a store has shards that its manifest does not name."""
    if loose := loose_shards(folder):
        warnings.warn(f"{folder} has {len(loose):,} shards that its manifest does not name: {LOOSE_CURE}", stacklevel=3)


def _unnamed(folder: Path) -> list[str]:
    known = {entry.name for entry in read_manifest(folder).shards}
    known.update(shard_name(number) for plan in read_plans(folder) for number in plan.numbers)
    known.update(map(shard_name, former_plan(folder) or ()))
    return [name for name in written_shards(folder) if name not in known]


def sweep(folder: Path, kept: set[str]) -> None:
    """Remove what killed processes left: half-written files, locks, and shards of no plan.

    Called under the lock of the store's folder, where nobody but the processes of plans writes shards.

    Args:
        folder: of the store.
        kept: names of the shards that belong to the store.
    """
    planned = {number for plan in read_plans(folder) for number in plan.numbers}
    for path in [*(folder / SHARDS).glob("*"), *(folder / PLANS).glob(".*")]:
        name = path.name.lstrip(".").partition(".")[0]
        if name.isdecimal() and int(name) in planned:
            continue  # to look at a lock is to hold it for a moment, in which another process would think it taken
        if path.suffix == ".lock":
            _is_held(path)  # which removes it where it is not
        elif path.name.startswith(".") or name not in kept:
            _remove(path)
    _remove(folder / _FORMER_CLAIMS)
    with suppress(OSError):  # there are plans in it, or it is not there
        (folder / PLANS).rmdir()


def _read(folder: Path, path: Path) -> Plan:
    stamp = _stamp(path)
    content = read_json(path, f"delete {path}")
    try:
        origins = list(_expanded(content["origins"]))
        ids = list(map(str, content["ids"]))
        plan = Plan(folder, int(content["first"]), int(content["size"]), ids, origins, stamp)
        right = len(plan.ids) == len(origins) and plan.size > 0 and plan.path.name == path.name
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise DataError(f"{path} is damaged: delete it, and give the same command again")
    return plan


def _expanded(origins: list[tuple[str, int]]) -> Iterator[str]:
    for origin, rows in origins:
        yield from [str(origin)] * rows


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _is_held(path: Path) -> bool:
    """Tell whether a process holds the lock of this file, which is removed where none does."""
    if not path.is_file():
        return False
    with file_lock(path) as free:
        return not free


def _remove(path: Path) -> None:
    with suppress(PermissionError):  # a file that another process still has open, on Windows
        path.unlink(missing_ok=True)
