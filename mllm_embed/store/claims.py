"""Work that several processes share without talking to one another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path


def own_first(shards: list[tuple[str, Sequence[int]]]) -> list[tuple[str, Sequence[int]]]:
    """The shards in an order in which processes that torchrun has numbered get into each other's way the least."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return sorted(shards, key=lambda shard: (int(shard[0]) - rank) % world)


@contextmanager
def claims(file: Path) -> Iterator[Callable[[int], AbstractContextManager[bool]]]:
    """What tells, while it is entered, whether a piece of work is this process' own, by its number.

    A process that dies gives up its claims. Each piece is a byte of `file`, locked as POSIX has it, which network file
    systems keep too; nothing is written to it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: nobody shares the work
        yield lambda number: nullcontext(True)
        return
    with file.open("a") as opened:

        @contextmanager
        def claim(number: int) -> Iterator[bool]:
            try:
                fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            except OSError:
                yield False
                return
            try:
                yield True
            finally:
                fcntl.lockf(opened, fcntl.LOCK_UN, 1, number)

        yield claim
