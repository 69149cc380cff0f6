"""Parquet files read as they lie, by row groups: their rows by number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from .table import NO_VALUE, Record, each, parquet_metadata, part_and_row, split_columns, unreadable


class ParquetTable:
    """Rows of parquet files as they lie there: a row group is read at once, and the last `keep` stay in memory."""

    def __init__(self, files: Sequence[Path], header: tuple[str, ...] | None = None, keep: int = 8):
        """Read the files' footers; `header`, of tables of text, is not looked at. Raises DataError."""
        self.files, self.keep = files, keep
        self._groups: list[tuple[int, int]] = []
        sizes = []
        for number, path in enumerate(files):
            metadata = parquet_metadata(path)
            for group in range(metadata.num_row_groups):
                self._groups.append((number, group))
                sizes.append(metadata.row_group(group).num_rows)
        self._starts = [0, *accumulate(sizes)]
        self._firsts: dict[int, int] = {}  # the first row of each file that has any
        for start, (file, _) in zip(self._starts, self._groups, strict=False):
            self._firsts.setdefault(file, start)
        self._held: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": OrderedDict()}  # a worker process reads for itself

    def place(self, index: int) -> tuple[int, int]:
        """As `Table.place`."""
        file, _ = self._groups[part_and_row(self._starts, index)[0]]
        return file, index - self._firsts[file]

    def record(self, index: int, columns: Collection[str] | None = None) -> Record:
        """As `Table.record`; reads its row group."""
        block, row = part_and_row(self._starts, index)
        return _row(self._read(block), row)

    def columns(self) -> list[str]:
        """As `Table.columns`."""
        return list(self._schema(self._groups[0][0]).names)

    def scan(self, columns: Collection[str], words: Collection[str] = ()) -> Iterator[Record | DataError]:
        """As `Table.scan`, with these columns alone; for a row group that cannot be read an error for each row."""
        for block, (file, _) in enumerate(self._groups):
            read, pictures = split_columns(self._schema(file), columns, words)
            try:
                group = self._load(block, read)
            except DataError as error:
                yield from repeat(error, self._starts[block + 1] - self._starts[block])
            else:
                for row in _rows(group):
                    yield row if isinstance(row, DataError) else row | pictures

    def blocks(self) -> np.ndarray:
        """As `Table.blocks`: the row groups."""
        return np.array(self._starts[:-1], dtype=np.int64)

    def _read(self, block: int) -> Any:
        if block not in self._held:
            self._held[block] = self._load(block, None)
        self._held.move_to_end(block)
        while len(self._held) > self.keep:
            self._held.popitem(last=False)
        return self._held[block]

    def _load(self, block: int, columns: list[str] | None) -> Any:
        import pyarrow
        import pyarrow.parquet

        file, group = self._groups[block]
        try:
            with pyarrow.parquet.ParquetFile(self.files[file]) as opened:
                found = opened.read_row_group(group, columns=columns, use_threads=False)
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"row group {group} cannot be read ({str(error).splitlines()[0]})") from error
        if found.num_rows != self._starts[block + 1] - self._starts[block]:
            raise DataError(f"row group {group} has other rows than when the file was opened; start again")
        return found

    def _schema(self, file: int) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.read_schema(self.files[file])


def _rows(group: Any) -> Iterator[Record | DataError]:
    """Yield the rows of a `pyarrow.Table`, or why there is none."""
    try:
        rows = group.to_pylist()
    except NO_VALUE:  # of one cell among them
        yield from each(lambda row: _row(group, row), group.num_rows)
    else:
        yield from rows


def _row(group: Any, row: int) -> Record:
    cells = group.slice(row, 1)
    try:
        found: Record = cells.to_pylist()[0]
    except NO_VALUE:
        return {name: _cell(column) for name, column in zip(cells.column_names, cells.columns, strict=True)}
    return found


def _cell(column: Any) -> Any:
    """Return the value of a column of one row, the bytes of a text that is no UTF-8: only who needs it minds."""
    import pyarrow

    try:
        return column[0].as_py()
    except NO_VALUE as error:
        if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
            return column.cast(pyarrow.large_binary())[0].as_py()
        raise unreadable(error) from error
