"""Vectors of a benchmark out of stores of `mllm-embed encode`, or out of what `mllm-embed export --to npy` writes.

One store may hold the gallery and the queries, or the queries have one of their own; a suite of several tasks has a
store a task where its tasks call different things alike: STORES/dress, STORES/shirt, STORES/toptee.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.files import read_json
from mllm_embed.saving.provenance import SPACE_FIELDS, check_same
from mllm_embed.store.export.npy import ABOUT, IDS, VECTORS
from mllm_embed.store.files import MANIFEST
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.types import Item

from .score import Vectors
from .suite import Suite, Task
from .vectors import first_bad, gathered, read_ids, read_matrix

_CURE = "see `mllm-embed-eval score --help` for how such stores are made"


@dataclass
class _Home:
    """A store, or an exported one, and what the suite asks of it so far.

    Args:
        path: its folder.
        row_of: the row of each id.
        made_by: what made its vectors; empty where that is not known.
        vectors: the store, or the matrix [N, D].
        asked: for each id that was looked for, what it is and which side of which task asked.
    """

    path: Path
    row_of: Mapping[str, int]
    made_by: Mapping[str, Any]
    vectors: VectorStore | np.ndarray
    asked: dict[str, tuple[Hashable, str]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> _Home:
        """Open a folder that `_is_home`. Raises DataError where it is damaged."""
        if (path / MANIFEST).is_file():
            store = VectorStore.open(path)
            return cls(path, {name: store.position(name) for name in store.living}, store.provenance, store)
        names, matrix = (
            read_ids(path / IDS),
            read_matrix(path / VECTORS, f"give what `mllm-embed export` wrote, {IDS} too"),
        )
        if len(names) != len(matrix):
            raise DataError(f"{path / VECTORS} has {len(matrix)} rows and {IDS} {len(names)} ids: export it again")
        row_of = {name: row for row, name in enumerate(names)}
        if len(row_of) < len(names):
            twice = next(name for row, name in enumerate(names) if row_of[name] != row)
            raise DataError(f'{path / IDS}: the id "{twice}" stands twice: export it again')
        return cls(path, row_of, _made_by(path / ABOUT), matrix)

    def take(self, ids: Sequence[str], items: Sequence[Hashable], side: str) -> np.ndarray:
        """Return the vectors [n, D] float32 of ids.

        Args:
            ids: of one side of a task.
            items: what each of them is.
            side: which side of which task, in words.

        Raises DataError where ids are missing, an id is another thing's as well, or a vector cannot be ranked.
        """
        missing = [name for name in ids if name not in self.row_of]
        if missing:
            raise DataError(
                f'{self.path} lacks {len(missing):,} of {len(ids):,} ids of {side}, the first is "{missing[0]}"; '
                f"{_CURE}"
            )
        for name, item in zip(ids, items, strict=True):
            before, where = self.asked.setdefault(name, (item, side))
            if before != item:
                raise DataError(
                    f'the id "{name}" is one thing in {where} and another in {side}, and {self.path} has one vector '
                    "for both: give the queries a store of their own with --queries, or each task its own"
                )
        rows = np.array([self.row_of[name] for name in ids], np.int64)
        found = self.vectors.take(rows) if isinstance(self.vectors, VectorStore) else gathered(self.vectors, rows)
        bad = first_bad(found)
        if bad is not None:
            raise DataError(f'{self.path}: the vector of "{ids[bad]}" holds NaN, or nothing but zeros; make it anew')
        return found


def holds_stores(folder: Path, suite: Suite) -> bool:
    """Return whether there is a store in a folder for all tasks of a suite, or for one of them."""
    return _is_home(folder) or any(_is_home(folder / task.name) for task in suite.tasks)


def read_stored(folder: Path, queries: Path | None, suite: Suite) -> dict[str, Vectors]:
    """Return the vectors of every task of a suite, in the order of its ids, as float32.

    Args:
        folder: a store of all tasks, or a folder with one a task; ids that no task names are left alone.
        queries: the same for the queries, where they are not in the gallery's.
        suite: says which ids must be there.

    Raises:
        DataError: a store or an id is missing, an id is of two different things, or widths differ.
        ConfigError: the queries were made by another model than the gallery.
    """
    homes: dict[Path, _Home] = {}
    return {task.name: _task(folder, queries or folder, task, homes) for task in suite.tasks}


def _task(folder: Path, queries: Path, task: Task, homes: dict[Path, _Home]) -> Vectors:
    name = f"task {task.name}" if task.name else "the benchmark"
    galleries, asking = _home(folder, task, homes), _home(queries, task, homes)
    gallery = galleries.take(task.gallery_ids, [item.key for item in task.gallery], f"the gallery of {name}")
    asked = asking.take(task.query_ids, list(map(_keys, task.queries)), f"the queries of {name}")
    if asking is not galleries:
        _check_fit(galleries, asking, gallery.shape[1], asked.shape[1])
    return Vectors(gallery, {task.query_kind: asked})


def _made_by(path: Path) -> Mapping[str, Any]:
    """Return what made the vectors of an exported store; nothing where the file is not there, as for others' vectors.

    Raises DataError for a file that does not say.
    """
    about = read_json(path, "export it again") if path.is_file() else {"made_by": {}}
    made_by = about.get("made_by") if isinstance(about, dict) else None
    if not isinstance(made_by, dict):
        raise DataError(f"{path} does not say what made the vectors: export it again")
    return made_by


def _keys(items: Sequence[Item]) -> Hashable:
    return tuple(item.key for item in items)


def _home(root: Path, task: Task, homes: dict[Path, _Home]) -> _Home:
    """Return the store of a task: its own, or else that of all tasks."""
    path = next(filter(_is_home, (root / task.name, root)), None)
    if path is None:
        places = f"{root} and {root / task.name} are" if task.name else f"{root} is"
        raise DataError(f"{places} no store, nor what `mllm-embed export --to npy` wrote; {_CURE}")
    if path not in homes:
        homes[path] = _Home.open(path)
    return homes[path]


def _is_home(path: Path) -> bool:
    return (path / MANIFEST).is_file() or (path / VECTORS).is_file()


def _check_fit(gallery: _Home, queries: _Home, width: int, asked: int) -> None:
    """Raise DataError for widths that differ, and ConfigError for models that do."""
    if width != asked:
        raise DataError(
            f"{gallery.path} has {width} dimensions and {queries.path} {asked}; both must come from one model"
        )
    if not gallery.made_by or not queries.made_by:
        return
    try:
        check_same(gallery.made_by, queries.made_by, SPACE_FIELDS, gallery.path)
    except ConfigError as error:
        raise ConfigError(f"the queries of {queries.path} are of another model than the gallery: {error}") from error
