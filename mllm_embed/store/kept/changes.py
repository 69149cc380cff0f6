"""Kept columns when rows come or other values: all shards of a store have the same columns, of the same types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.kept import column_names
from ...errors import DataError
from ..columns import Columns
from .column_values import column_of
from .files import FileMissing, Kept, read_kept, write_kept

if TYPE_CHECKING:
    from ..manifest import Manifest
    from ..records import ShardRecord
    from ..vector_store import VectorStore


@dataclass(frozen=True)
class Values:
    """The values that rows have from now on.

    Args:
        columns: [n] rows; what they do not name stays as it is.
        row_of: from an id to its row there. Rows of the store with other ids stay as they are.
    """

    columns: Columns
    row_of: Mapping[str, int]

    @classmethod
    def named(cls, names: Iterable[str]) -> Values:
        """Return no values of columns that are to be kept."""
        import pyarrow

        return cls(Columns(pyarrow.table({name: pyarrow.nulls(0) for name in names}), 0), {})


@dataclass(frozen=True)
class Revalued:
    """How many rows that were there before have other values now, and in which columns."""

    rows: int = 0
    columns: tuple[str, ...] = ()

    def __add__(self, other: Revalued) -> Revalued:
        """Return both, of rows of which none is in both."""
        return Revalued(self.rows + other.rows, tuple(dict.fromkeys((*self.columns, *other.columns))))


def stored_columns(folder: Path, manifest: Manifest, records: Sequence[ShardRecord]) -> list[Columns]:
    """Return the kept columns of each shard; those without a file have none.

    Args:
        folder: of the store.
        manifest: what the store is.
        records: of each shard.

    Raises DataError where one is missing or damaged.
    """
    found = []
    for shard, record in zip(manifest.shards, records, strict=True):
        sha256, ids = manifest.kept.files.get(shard.name), record.ids
        found.append(_nothing(len(ids)) if sha256 is None else read_kept(folder, shard.name, sha256, ids))
    return found


def kept_columns(folder: Path, manifest: Manifest, records: Sequence[ShardRecord]) -> Columns:
    """Return the kept columns of all rows of a store, as `stored_columns`.

    Where another process has given rows other values since the manifest was read, these are the values of now.
    """
    from ..manifest import read_manifest

    while True:
        try:
            return all_columns(stored_columns(folder, manifest, records), manifest.kept.columns)
        except FileMissing:
            now = read_manifest(folder).kept
            if now == manifest.kept:
                raise
            manifest = replace(manifest, kept=now)


def given_values(ids: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Values:
    """Return the values of rows, a mapping each. Raises DataError, naming the row, for what no column holds."""
    import pyarrow

    if len(metadata) != len(ids):
        raise DataError(f"{len(ids)} ids do not fit the metadata of {len(metadata)} rows: give a mapping for each")
    names = column_names(metadata)
    arrays = {}
    for name in names:
        arrays[name] = column_of(name, [row.get(name) for row in metadata], lambda at: f'"{ids[at]}"')
    return Values(Columns(pyarrow.table(arrays), len(ids)), {name: at for at, name in enumerate(ids)})


def all_columns(parts: Sequence[Columns], names: Sequence[str]) -> Columns:
    """Return the kept columns of all rows of a store by those of its shards, with these names in this order."""
    import pyarrow

    return Columns.concat([Columns(pyarrow.table(dict.fromkeys(names, pyarrow.nulls(0))), 0), *parts])


def with_values(
    folder: Path, manifest: Manifest, records: Sequence[ShardRecord], given: Values | None, older: int
) -> tuple[Kept, Revalued]:
    """Write what changes in the kept columns of a store, and return what its manifest is to say of them.

    Args:
        folder: of the store.
        manifest: what the store is to be, its kept columns still as they are.
        records: of each shard.
        given: the values that rows have from now on; None for none.
        older: how many rows were there before.

    Returns:
        What is kept, and what has changed of the rows that were there before.

    Raises:
        DataError: a file is damaged, a column would hold values of several kinds, or the disk is full.
    """
    given = given or Values(_nothing(0), {})
    names = tuple(dict.fromkeys((*manifest.kept.columns, *given.columns.names)))
    if not names:
        return manifest.kept, Revalued()
    before = stored_columns(folder, manifest, records)
    rows = _rows_given(chain.from_iterable(record.ids for record in records), manifest.removed, given)
    table = _merged(folder, all_columns(before, names), rows, manifest.removed, given)
    there = ~_among(manifest.removed, len(rows))
    there[older:] = False
    changed, columns = np.zeros(len(rows), bool), set()
    files, start = {}, 0
    for shard, record, old in zip(manifest.shards, records, before, strict=True):
        part = table.slice(start, len(record.ids))
        if shard.name in manifest.kept.files and part.equals(old.table):
            files[shard.name] = manifest.kept.files[shard.name]
        else:
            for name in names:
                differ = _differ(part[name], old.column(name)) & there[start : start + len(part)]
                changed[start : start + len(part)] |= differ
                columns.update([name] if differ.any() else [])
            files[shard.name] = write_kept(folder, shard.name, record.ids, part.combine_chunks())
        start += len(part)
    return Kept(names, files), Revalued(int(changed.sum()), tuple(name for name in names if name in columns))


def check_given(store: VectorStore, given: Values | None) -> None:
    """Raise DataError where rows cannot have these values in a store, before there are vectors for them."""
    if given is not None and store.columns is not None:
        removed = np.flatnonzero(~store.alive)
        _merged(store.folder, store.columns, _rows_given(store.ids, removed, given), removed, given)


def _rows_given(ids: Iterable[str], removed: np.ndarray, given: Values) -> np.ndarray:
    """Return for each row of a store its row [N] int64 in what is given, -1 for none and for removed ones."""
    rows = np.array([given.row_of.get(name, -1) for name in ids], np.int64)
    rows[removed] = -1
    return rows


def _merged(folder: Path, stored: Columns, rows: np.ndarray, removed: np.ndarray, given: Values) -> Any:
    """Return the kept columns of all rows, a `pyarrow.Table`: removed rows have no values any more.

    Raises DataError, naming the folder, where a column would hold values of several kinds.
    """
    import pyarrow

    numbers = np.arange(len(rows))
    gone = _among(removed, len(rows))
    arrays = {}
    for name in stored.names:
        taken = (rows >= 0) & (name in given.columns.names)
        values = stored.column(name).take(pyarrow.array(numbers, mask=gone | taken))
        if values.null_count == len(values):  # that were of another kind, perhaps
            values = pyarrow.chunked_array([pyarrow.nulls(len(values))])
        if name in given.columns.names:
            both = [Columns(pyarrow.table({name: column})) for column in (values, given.columns.column(name))]
            place = np.where(taken, rows + len(rows), numbers)
            try:
                values = Columns.concat(both).column(name).take(pyarrow.array(place))
            except DataError as error:
                raise DataError(f"{folder} keeps other values of this column than these rows have: {error}") from error
        arrays[name] = values
    return pyarrow.table(arrays)


def _differ(now: Any, then: Any) -> np.ndarray:
    """Return in which rows two columns of Arrow differ, [n] bool."""
    pairs = zip(now.to_pylist(), then.to_pylist(), strict=True)
    return np.fromiter((one != other for one, other in pairs), bool, len(now))


def _among(numbers: np.ndarray, rows: int) -> np.ndarray:
    """Return which of so many rows have these numbers, [N] bool."""
    found = np.zeros(rows, bool)
    found[numbers] = True
    return found


def _nothing(rows: int) -> Columns:
    import pyarrow

    return Columns(pyarrow.table({}), rows)
