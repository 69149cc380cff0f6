"""Rows of a source by number, made when they are asked for; and those of several sources one after the other."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mllm_embed.data.tables import Record, Table
from mllm_embed.errors import DataError
from mllm_embed.types import ImageLike

from .build import Cells, empty, row_of
from .formats import Format
from .formats.format import Finish, Values
from .numbers import number_of
from .row import TrainingRow
from .source import DataSource

_BAR = 200_000


class TrainingRows(Protocol):
    """The rows of one source."""

    source: DataSource
    skipped: int
    """How many rows of its files lack a role that is needed, and are left out."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> TrainingRow:
        """Raises DataError, naming file and row, for one that cannot be made."""
        ...

    def groups(self) -> np.ndarray:
        """[N] int64: rows that ask about one reference share a number."""
        ...

    def blocks(self) -> np.ndarray:
        """[K] int64: the first row of each run that is best read together."""
        ...

    def files_fingerprint(self) -> str:
        """Changes with the files."""
        ...

    def where(self, index: int) -> tuple[str, str]:
        """A row and the file that it comes from, for a list: "row 5" of a table, the id of a row in memory."""
        ...

    def name(self, index: int) -> str:
        """Where a row comes from, for a message."""
        ...


@dataclass
class ListRows:
    """Rows in memory."""

    source: DataSource
    rows: list[TrainingRow]
    digest: str
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TrainingRow:
        return self.rows[index]

    def groups(self) -> np.ndarray:
        return np.array([number_of(row.group) for row in self.rows], dtype=np.int64)

    def blocks(self) -> np.ndarray:
        return np.arange(0, len(self), 1024)

    def files_fingerprint(self) -> str:
        return self.digest

    def where(self, index: int) -> tuple[str, str]:
        return self.rows[index].id, str(self.source.path)

    def name(self, index: int) -> str:
        return self.rows[index].id


@dataclass
class TableRows:
    """Rows made of the records of a table as a format says."""

    source: DataSource
    format: Format
    table: Table
    kind: str
    roles: Sequence[str]
    columns: Mapping[str, str]
    finish: Finish | None = None
    kept: np.ndarray | None = None
    """[N] the records that are rows; None for all."""
    _ending: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._roots = [os.fspath(self.source.images or path.parent) for path in self.table.files]
        self._stems = [path.stem for path in self.table.files]

    @property
    def skipped(self) -> int:
        return 0 if self.kept is None else len(self.table) - len(self.kept)

    def __len__(self) -> int:
        return len(self.table if self.kept is None else self.kept)

    def __getitem__(self, index: int) -> TrainingRow:
        record = self._record(index)
        try:
            row = self.make(self.table.record(record), record)
            missing = [role for role in self.roles if role not in row.roles]
            if missing:
                raise DataError(f"its {missing[0]} is missing or empty")
        except DataError as error:
            raise DataError(f"{self.name(index)}: {error}") from error
        return row

    def where(self, index: int) -> tuple[str, str]:
        file, row = self.table.place(self._record(index))
        return f"row {row + 1}", str(self.table.files[file])

    def name(self, index: int) -> str:
        row, file = self.where(index)
        return f"{file}: {row}"

    def groups(self) -> np.ndarray:
        groups = np.empty(len(self.table), dtype=np.int64)
        for index, record in enumerate(self.scan("groups of")):
            try:
                groups[index] = number_of(self._group(self.values(record), index))
            except DataError:
                groups[index] = number_of(self._place(index))
        return groups if self.kept is None else groups[self.kept]

    def blocks(self) -> np.ndarray:
        starts = self.table.blocks()
        return starts if self.kept is None else np.unique(np.searchsorted(self.kept, starts))

    def files_fingerprint(self) -> str:
        from mllm_embed.data.tables.fingerprint import files_fingerprint

        return files_fingerprint(self.table.files)

    def scan(self, what: str) -> Iterator[Record | DataError]:
        """Every record of the table with the columns of the format, under a bar where it takes long."""
        from tqdm import tqdm

        wanted = {name.split(".")[0] for name in self.columns.values()} | set(self.columns.values())
        count = len(self.table)
        return iter(
            tqdm(
                self.table.scan(wanted),
                total=count,
                desc=f"{what} {self.source.path.name}",
                unit="row",
                leave=False,
                disable=count < _BAR,
            )  # fmt: skip
        )

    def make(self, record: Record | DataError, index: int) -> TrainingRow:
        """The row of record `index`. Raises DataError for one that lacks columns or holds something else in them."""
        values = self.values(record)
        file, _ = self.table.place(index)
        cells = Cells(values, lambda value: self.picture(value, file), self._place(index))
        identifier = values.get("id")
        named = self._place(index) if identifier is None or identifier == "" else str(identifier)
        return row_of(self.kind, cells, named, self._group(values, index))

    def picture(self, value: Any, file: int) -> ImageLike:
        """A picture as a row may name it: a path from the folder of pictures, bytes, or an object of both."""
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return value
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"a picture must be a path, not {str(value)[:60]!r}")
        if "://" in value:
            raise DataError(f"{value[:80]} is a URL, and none is fetched; download the pictures and give their paths")
        path = os.path.join(self._roots[file], value)
        return Path(self._ended(path) if self.format.extensions else path)

    def root(self, file: int) -> Path:
        """The folder that names of pictures start from."""
        return Path(self._roots[file])

    def _ended(self, path: str) -> str:
        """The path with the first ending under which it exists; as it is where none does, for the message."""
        if path.lower().endswith(self.format.extensions):
            return path
        last = self._ending.get("last", self.format.extensions[0])  # nearly always that of the picture before
        for ending in (last, *self.format.extensions):
            if os.path.exists(path + ending):
                self._ending["last"] = ending
                return path + ending
        return path

    def _record(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return index if self.kept is None else int(self.kept[index])

    def _place(self, index: int) -> str:
        file, row = self.table.place(index)
        return f"{self._stems[file]}:{row + 1}"

    def values(self, record: Record | DataError) -> Values:
        """The columns of ours, as the format reads them.

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
            if ours not in self.format.optional and empty(value):
                raise DataError(f'"{theirs}" is missing or empty')
            values[ours] = value
        return self.finish(values) if self.finish else values

    def _group(self, values: Values, index: int) -> str:
        """What rows about one reference share: where its picture lies, or its words."""
        image = values.get("image")
        if isinstance(image, dict) and not image.get("bytes"):
            image = image.get("path")
        if isinstance(image, str) and image:
            return os.path.normpath(os.path.join(self._roots[self.table.place(index)[0]], image))
        words = values.get("source_text") or values.get("instruction")
        return words if isinstance(words, str) and words and not image else self._place(index)


def cell(record: Record, name: str) -> tuple[bool, Any]:
    """Whether a record has a column, and its value; "a.b" is key b of the object under a."""
    if name in record:
        return True, record[name]
    top, dot, rest = name.partition(".")
    inner = record.get(top) if dot else None
    return cell(inner, rest) if isinstance(inner, dict) else (False, None)


class MixedRows(Sequence[TrainingRow]):
    """The rows of several sources, one source after the other."""

    def __init__(self, parts: Sequence[TrainingRows]):
        self.parts = list(parts)
        self.starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> TrainingRow:  # type: ignore[override]
        part, inside = self.at(index)
        return self.parts[part][inside]

    def at(self, index: int) -> tuple[int, int]:
        """The number of a row's source, and its own there."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return part, int(index - self.starts[part])

    def where(self, index: int) -> tuple[str, str]:
        """A row and the file that it comes from, short enough for a list of rows."""
        part, inside = self.at(index)
        return self.parts[part].where(inside)

    def sources(self) -> np.ndarray:
        """[N] int32: the number of each row's source."""
        return np.repeat(np.arange(len(self.parts), dtype=np.int32), np.diff(self.starts))

    def groups(self) -> np.ndarray:
        """[N] int64: rows that ask about one reference share a number."""
        return np.concatenate([part.groups() for part in self.parts])

    def fingerprints(self) -> dict[str, str]:
        """What each source was read from -> what changes with its files."""
        return {str(part.source.path): part.files_fingerprint() for part in self.parts}

    def skipped(self) -> dict[str, int]:
        """Source -> how many of its rows are left out because they lack a role that the loss needs."""
        return {str(part.source.path): part.skipped for part in self.parts if part.skipped}


def needed(rows: TableRows, roles: Collection[str]) -> np.ndarray:
    """[N] the records that offer all of `roles`; those that cannot be read are kept, to be counted when met."""
    kept = np.ones(len(rows.table), dtype=bool)
    offering: dict[frozenset[str], bool] = {}  # which columns are filled -> whether such a row offers the roles
    for index, record in enumerate(rows.scan("looking through")):
        try:
            filled = frozenset(name for name, value in rows.values(record).items() if value)
            if filled not in offering:
                offering[filled] = set(roles) <= rows.make(record, index).roles.keys()
            kept[index] = offering[filled]
        except DataError:
            continue
    return np.flatnonzero(kept)
