"""Work that several processes share without talking to one another: each claims a shard before it makes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from ..locks import file_lock


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
