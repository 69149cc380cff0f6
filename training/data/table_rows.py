"""The rows of a source's tables, made of their records as a format says."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mllm_embed.data.tables import Record, Table
from mllm_embed.data.tables.fingerprint import files_fingerprint
from mllm_embed.data.values import check_picture_name, id_text
from mllm_embed.errors import DataError
from mllm_embed.text import printable
from mllm_embed.types import ImageLike

from .cells import Cells, empty, row_of
from .formats import Format
from .formats.format import TASK, TASKS, Finish, Values
from .numbers import Turn, number_of
from .row import RowTasks, TrainingRow
from .source import DataSource

_BAR_ROWS = 200_000  # records from which on looking at all of them takes long enough to show it


@dataclass
class TableRows:
    """Rows made of the records of a table.

    Args:
        source: what the recipe says.
        format: how its records are read.
        table: the records.
        kind: "pairs", "triplets" or "texts".
        roles: those that each row must offer.
        columns: our column -> theirs.
        finish: what is left to do with the values of a record.
        selected: [N] int64, the records that are rows; None for all.
        instructed: reads their task instructions, after that; None where there are none.
        tasks_file: the file that these are from.
    """

    source: DataSource
    format: Format
    table: Table
    kind: str
    roles: Sequence[str]
    columns: Mapping[str, str]
    finish: Finish | None = None
    selected: np.ndarray | None = None
    instructed: Finish | None = None
    tasks_file: Path | None = None
    _ending: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._roots = [os.fspath(self.source.images or path.parent) for path in self.table.files]
        self._stems = [path.stem for path in self.table.files]

    @property
    def skipped(self) -> int:
        """The number of records that lack a role that is needed, and are left out."""
        return 0 if self.selected is None else len(self.table) - len(self.selected)

    def __len__(self) -> int:
        return len(self.table if self.selected is None else self.selected)

    def __getitem__(self, index: int) -> TrainingRow:
        """Return a row. Raises DataError, naming file and row, for one that cannot be made."""
        return self.at_turn(index, None)

    def at_turn(self, index: int, turn: Turn | None) -> TrainingRow:
        """Return a row as it is read in an epoch, where it has a choice. Raises DataError as `__getitem__`."""
        record = self._record(index)
        try:
            row = self.make(self.table.record(record), record, turn)
            missing = [role for role in self.roles if role not in row.roles]
            if missing:
                raise DataError(f"its {missing[0]} is missing or empty")
        except DataError as error:
            raise DataError(f"{self.name(index)}: {error}") from error
        return row

    def where(self, index: int) -> tuple[str, str]:
        """Return a row, "row 5", and the file that it comes from."""
        file, row = self.table.place(self._record(index))
        return f"row {row + 1}", str(self.table.files[file])

    def name(self, index: int) -> str:
        """Return where a row comes from, for a message."""
        row, file = self.where(index)
        return f"{file}: {row}"

    def records(self) -> np.ndarray:
        """Return [N] int64, increasing: each row's record in the tables."""
        return np.arange(len(self.table)) if self.selected is None else self.selected

    @property
    def record_count(self) -> int:
        """The number of records in the tables."""
        return len(self.table)

    def of_record(self, record: int) -> TrainingRow:
        """Return the row of a record, whatever roles it offers. Raises DataError where it cannot be made."""
        return self.make(self.table.record(record), record)

    def groups(self) -> np.ndarray:
        """Return [N] int64: rows that ask about one reference share a number."""
        groups = np.empty(len(self.table), dtype=np.int64)
        for index, record in enumerate(self.scan("groups of")):
            try:
                groups[index] = number_of(self._group(self.values(record), index))
            except DataError:
                groups[index] = number_of(self._place(index))  # by itself; it is counted when its turn comes
        return groups if self.selected is None else groups[self.selected]

    def blocks(self) -> np.ndarray:
        """Return [K] int64: the first row of each run that is best read together."""
        starts = self.table.blocks()
        return starts if self.selected is None else np.unique(np.searchsorted(self.selected, starts))

    def files_fingerprint(self) -> str:
        """Return what changes with the files."""
        return files_fingerprint([*self.table.files, *filter(None, [self.tasks_file])])

    def roots(self) -> list[str]:
        """Return the folders that the names of its pictures start from."""
        return list(dict.fromkeys(self._roots))

    def bytes_read(self) -> int:
        """Return the bytes of the tables' files."""
        return sum(path.stat().st_size for path in self.table.files)

    def scan(self, what: str) -> Iterator[Record | DataError]:
        """Return every record of the table with the columns of the format, under a bar where it takes long."""
        columns = {name.split(".")[0] for name in self.columns.values()} | set(self.columns.values())
        count, title = len(self.table), f"{what} {self.source.path.name}"
        records = self.table.scan(columns)
        return iter(tqdm(records, total=count, desc=title, unit="row", leave=False, disable=count < _BAR_ROWS))

    def make(self, record: Record | DataError, index: int, turn: Turn | None = None) -> TrainingRow:
        """Return the row of record `index`, as `turn` reads it where it has a choice.

        Raises DataError where columns are missing or hold something else.
        """
        values = self.values(record)
        file, _ = self.table.place(index)
        cells = Cells(values, lambda value: self.picture(value, file), self._place(index), turn)
        row = row_of(self.kind, cells, self._id(values.get("id"), index), self._group(values, index), self.roles)
        tasks = values.get(TASKS)
        return replace(row, tasks=_at_turn(tasks, cells)) if tasks else row

    def picture(self, value: Any, file: int) -> ImageLike:
        """Return a picture as a row may name it: a path from the folder of pictures, bytes, or an object of both."""
        named = _bytes_or_path(value)
        if isinstance(named, bytes) and named:
            return named
        if not isinstance(named, str) or not named.strip():
            raise DataError(f"a picture must be a path, not {str(named)[:60]!r}")
        check_picture_name(named)
        path = os.path.join(self._roots[file], named)
        return Path(self._with_extension(path) if self.format.extensions else path)

    def root(self, index: int) -> Path:
        """Return the folder that the names of a row's pictures start from."""
        return Path(self._roots[self.table.place(self._record(index))[0]])

    def values(self, record: Record | DataError) -> Values:
        """Return the columns of ours, as the format reads them.

        Raises DataError, without the place, for a record that lacks one or holds something else in it.
        """
        if isinstance(record, DataError):
            raise record
        try:
            return self._values(record)
        except (TypeError, KeyError, AttributeError, ValueError, IndexError) as error:
            raise DataError(f"it is not as format {self.source.format} has it ({error})") from error

    def _values(self, record: Record) -> Values:
        values: Values = {}
        for ours, theirs in self.columns.items():
            _, value = cell(record, theirs)
            if ours in self.format.cells:
                value = self.format.cells[ours](value)
            if ours not in self.format.optional and ours != TASK and empty(value):
                raise DataError(f'"{theirs}" is missing or empty')
            values[ours] = None if empty(value) else value
        values = self.finish(values) if self.finish else values
        return self.instructed(values) if self.instructed else values

    def _with_extension(self, path: str) -> str:
        """Return the path with the first ending under which it exists; as it is where none does, for the message."""
        if path.lower().endswith(self.format.extensions):
            return path
        last = self._ending.get("last", self.format.extensions[0])  # nearly always that of the picture before
        for ending in (last, *self.format.extensions):
            if os.path.exists(path + ending):
                self._ending["last"] = ending
                return path + ending
        return path

    def _record(self, index: int) -> int:
        """Return the record of a row. Raises IndexError past the end, by which a loop over the rows ends."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return index if self.selected is None else int(self.selected[index])

    def _id(self, value: Any, index: int) -> str:
        """Return a row's id, its place where it has none. Raises DataError for what is no name."""
        if value is None:
            return self._place(index)
        try:
            return printable(id_text(value))
        except DataError as error:
            raise DataError(f"its id {error}") from error

    def _place(self, index: int) -> str:
        file, row = self.table.place(index)
        return f"{self._stems[file]}:{row + 1}"

    def _group(self, values: Values, index: int) -> str:
        """Return what rows about one reference share: where its picture lies, or its words."""
        image = _bytes_or_path(values.get("image"))
        if isinstance(image, str) and image:
            return os.path.normpath(os.path.join(self._roots[self.table.place(index)[0]], image))
        words = values.get("source_text") or values.get("instruction")
        return words if isinstance(words, str) and not image else self._place(index)


def _at_turn(tasks: RowTasks, cells: Cells) -> RowTasks:
    """Return the tasks of a row with the instruction first that its turn reads."""
    if len(tasks.queries) < 2:
        return tasks
    at = cells.chosen(TASKS, len(tasks.queries))
    return replace(tasks, queries=(*tasks.queries[at:], *tasks.queries[:at]))


def _bytes_or_path(value: Any) -> Any:
    """Return what an object of {bytes, path}, as parquet files of pictures have it, holds; any other value as it is."""
    return (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value


def cell(record: Record, name: str) -> tuple[bool, Any]:
    """Return whether a record has a column, and its value; "a.b" is key b of the object under a."""
    if name in record:
        return True, record[name]
    top, dot, rest = name.partition(".")
    inner = record.get(top) if dot else None
    return cell(inner, rest) if isinstance(inner, dict) else (False, None)


def _filled(name: str, value: Any) -> Any:
    """Return a column and where it is filled: of the targets in a list each may offer something else."""
    return name, tuple(not empty(entry) for entry in value) if isinstance(value, list) else value is not None


def offering(rows: TableRows, roles: Collection[str]) -> np.ndarray:
    """Return [N] int64, the records that offer all of `roles`.

    Those that cannot be read are among them, to be counted when their turn comes.
    """
    chosen = np.ones(len(rows.table), dtype=bool)
    # Which columns are filled decides what a row offers: one row of each pattern is made, not all of millions.
    offers: dict[frozenset[Any], bool] = {}
    for index, record in enumerate(rows.scan("looking through")):
        try:
            filled = frozenset(map(_filled, *zip(*rows.values(record).items(), strict=True)))
            if filled not in offers:
                offers[filled] = set(roles) <= rows.make(record, index).roles.keys()
            chosen[index] = offers[filled]
        except DataError:
            continue
    return np.flatnonzero(chosen)
