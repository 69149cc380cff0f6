"""A store as files that others read: parquet, Lance, or numpy's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...errors import ConfigError, DataError
from ...files import check_space
from ..vector_store import VectorStore
from .lance import write_lance
from .npy import write_npy
from .parquet import write_parquet
from .rows import LivingRows

KINDS: dict[str, Callable[[LivingRows, Path], None]] = {
    "parquet": write_parquet,
    "lance": write_lance,
    "npy": write_npy,
}
"""How each kind is written: the rows to a place where there is nothing."""


def export(store: VectorStore, kind: str, output: str | os.PathLike[str], show_progress: bool | None = None) -> int:
    """Write the living rows of a store in row order, block by block, and return how many there are.

    Each has its id, its vector as float32 of unit length, where its picture lies, and the columns that the store keeps.

    Args:
        store: to be written.
        kind: one of KINDS.
        output: file or folder, which must not be there; it is there when all of it is written.
        show_progress: None shows a bar on a terminal.

    Raises:
        ConfigError: there is no such kind, it needs a package that is not installed, or the output is there already.
        DataError: the store is damaged, or the disk is full.
    """
    path = Path(output)
    if kind not in KINDS:
        raise ConfigError(f"there is no export to '{kind}': give one of {', '.join(KINDS)}")
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} is there already: give another output, or move it away")
    if not len(store.living):
        raise DataError(f"{store.folder} has no rows: there is nothing to export")
    store.rows(0, 0)  # a store of several vectors a row says so before anything is made
    rows = LivingRows(store, show_progress)
    check_space(path, len(rows) * store.dimension * 4, f"the vectors of {len(rows):,} rows")
    KINDS[kind](rows, path)
    return len(rows)
