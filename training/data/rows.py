"""The rows of one source by number, as a protocol; rows in memory; those of several sources one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from .numbers import Turn, number_of
from .row import TrainingRow
from .source import DataSource

_BLOCK_ROWS = 1024  # of rows in memory, which cost the same in any order


class SourceRows(Protocol):
    """The rows of one source, each made when it is asked for."""

    source: DataSource

    @property
    def skipped(self) -> int:
        """The number of rows of its files that lack a role that is needed, and are left out."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> TrainingRow:
        """Return a row. Raises DataError, naming file and row, for one that cannot be made."""
        ...

    def at_turn(self, index: int, turn: Turn | None) -> TrainingRow:
        """Return a row as it is read in an epoch, where it has a choice: one of several right answers, of several
        texts that ask the same. Raises DataError as `__getitem__`, which always gives the same one."""
        ...

    def groups(self) -> np.ndarray:
        """Return [N] int64: rows that ask about one reference share a number."""
        ...

    def blocks(self) -> np.ndarray:
        """Return [K] int64: the first row of each run that is best read together."""
        ...

    def files_fingerprint(self) -> str:
        """Return what changes with the files."""
        ...

    def where(self, index: int) -> tuple[str, str]:
        """Return a row and the file that it comes from: "row 5" of a table, the id of a row in memory."""
        ...

    def name(self, index: int) -> str:
        """Return where a row comes from, for a message."""
        ...

    def records(self) -> np.ndarray:
        """Return [N] int64, increasing: each row's number in its files, which no choice of roles changes."""
        ...

    @property
    def record_count(self) -> int:
        """The number of rows in its files, those that are left out among them."""
        ...

    def of_record(self, record: int) -> TrainingRow:
        """Return the row of that number in the files, whatever roles it offers. Raises DataError as for a row."""
        ...

    def roots(self) -> list[str]:
        """Return the folders that the names of its pictures start from."""
        ...

    def bytes_read(self) -> int:
        """Return the bytes of the files that are read for its rows, where one may hold their pictures; 0 for rows in
        memory."""
        ...


@dataclass
class ListRows:
    """Rows in memory.

    Args:
        source: what they were read from.
        rows: all of them.
        fingerprint: changes with the source's files.
    """

    source: DataSource
    rows: list[TrainingRow]
    fingerprint: str

    @property
    def skipped(self) -> int:
        """None is left out."""
        return 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TrainingRow:
        return self.rows[index]

    def at_turn(self, index: int, turn: Turn | None) -> TrainingRow:
        """Return a row as it is read in an epoch, where it has several ways to ask."""
        row = self.rows[index]
        if turn is None or not row.others:
            return row
        ways = {role: (row.roles[role], *items) for role, items in row.others.items()}
        at = turn.of(f"{row.id} instruction", max(map(len, ways.values())))
        taken = {role: items[at % len(items)] for role, items in ways.items()}
        others = {role: tuple(filter(taken[role].__ne__, items)) for role, items in ways.items()}
        return replace(row, roles=row.roles | taken, others=others)

    def groups(self) -> np.ndarray:
        """Return [N] int64: rows that ask about one reference share a number."""
        return np.array([number_of(row.group) for row in self.rows], dtype=np.int64)

    def blocks(self) -> np.ndarray:
        """Return [K] int64: the first row of each run of `_BLOCK_ROWS`."""
        return np.arange(0, len(self), _BLOCK_ROWS)

    def files_fingerprint(self) -> str:
        """Return what changes with the files."""
        return self.fingerprint

    def where(self, index: int) -> tuple[str, str]:
        """Return a row's id, and the folder."""
        return self.rows[index].id, str(self.source.path)

    def name(self, index: int) -> str:
        """Return a row's id."""
        return self.rows[index].id

    def records(self) -> np.ndarray:
        """Return [N] int64: the rows' numbers, since all of them are here."""
        return np.arange(len(self))

    @property
    def record_count(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def of_record(self, record: int) -> TrainingRow:
        """Return a row."""
        return self.rows[record]

    def roots(self) -> list[str]:
        """Return the folder that the names of its pictures start from."""
        return [str(self.source.images or self.source.path)]

    def bytes_read(self) -> int:
        """Return 0: the rows are in memory."""
        return 0


class MixedRows(Sequence[TrainingRow]):
    """The rows of several sources, one source after the other.

    Attributes:
        parts: the rows of each source.
        starts: [parts + 1] int64, the first row of each, and how many there are in all.
    """

    def __init__(self, parts: Sequence[SourceRows]):
        self.parts = list(parts)
        self.starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> TrainingRow:  # type: ignore[override]  # nobody asks for a slice
        """Return a row. Raises DataError, naming file and row, for one that cannot be made."""
        part, inside = self.at(index)
        return self.parts[part][inside]

    def at_turn(self, index: int, turn: Turn | None) -> TrainingRow:
        """Return a row as it is read in an epoch, where it has a choice. Raises DataError as `__getitem__`."""
        part, inside = self.at(index)
        return self.parts[part].at_turn(inside, turn)

    def at(self, index: int) -> tuple[int, int]:
        """Return the number of a row's source, and its own there. Raises IndexError past the end."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        part = int(np.searchsorted(self.starts, index, side="right")) - 1  # right: an empty source has no row
        return part, int(index - self.starts[part])

    def where(self, index: int) -> tuple[str, str]:
        """Return a row and the file that it comes from, short enough for a list of rows."""
        part, inside = self.at(index)
        return self.parts[part].where(inside)

    def sources(self) -> np.ndarray:
        """Return [N] int32: the number of each row's source."""
        return np.repeat(np.arange(len(self.parts), dtype=np.int32), np.diff(self.starts))

    def groups(self) -> np.ndarray:
        """Return [N] int64: rows that ask about one reference share a number."""
        return np.concatenate([part.groups() for part in self.parts])

    def fingerprints(self) -> dict[str, str]:
        """Return, for each source's path, what changes with its files."""
        return {str(part.source.path): part.files_fingerprint() for part in self.parts}

    def skipped(self) -> dict[str, int]:
        """Return, for each source's path, how many rows are left out because they lack a role that the loss needs."""
        return {str(part.source.path): part.skipped for part in self.parts if part.skipped}
