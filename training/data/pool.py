"""A file of records that others name by an id: found by the id, not held in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mllm_embed.data.tables import Record, json_table
from mllm_embed.errors import DataError

from .numbers import number_of

_BAR_ROWS = 100_000  # records from which on reading takes long enough to show it


class RecordPool:
    """The records of a JSON file by the text under `key`; 28 bytes of memory a record.

    Args:
        path: a JSON or JSONL file.
        key: the field that holds a record's id.

    Raises DataError for a missing file, for a record without the key, for one that is no JSON, and for two that differ
    under one id.
    """

    def __init__(self, path: Path, key: str):
        if not path.is_file():
            raise DataError(f"{path} is missing; give the file of candidates as pool")
        self.path, self.key, self._table = path, key, json_table([path])
        count = len(self._table)
        ids = np.empty(count, dtype=np.int64)
        for row in tqdm(range(count), desc=f"reading {path.name}", unit="row", leave=False, disable=count < _BAR_ROWS):
            ids[row] = number_of(self._id(row))
        self._order = np.argsort(ids, kind="stable").astype(np.int32)
        self._sorted = ids[self._order]
        self._check_twice()

    def __getitem__(self, identifier: Any) -> Record:
        """Return a record. Raises DataError for an id that the file does not hold."""
        record = self._found(identifier)
        if record is None:
            raise DataError(f'"{identifier}" is not in {self.path}')
        return record

    def __contains__(self, identifier: Any) -> bool:
        """Return whether the file holds a record of an id."""
        return self._found(identifier) is not None

    def _found(self, identifier: Any) -> Record | None:
        if not isinstance(identifier, str):
            return None
        # ids are kept as their numbers alone: the record found tells whether it is the one
        at = int(np.searchsorted(self._sorted, number_of(identifier)))
        record = self._table.record(int(self._order[at])) if at < len(self._sorted) else {}
        return record if record.get(self.key) == identifier else None

    def _check_twice(self) -> None:
        """Raise DataError for two records of one id that differ: a row's answer would be either of them."""
        for at in np.flatnonzero(self._sorted[1:] == self._sorted[:-1]).tolist():
            one, other = (int(row) for row in self._order[at : at + 2])
            if self._table.record(one) != self._table.record(other):
                raise DataError(
                    f'{self.path}: rows {one + 1} and {other + 1} are both "{self._id(one)}"; keep one of them'
                )

    def _id(self, row: int) -> str:
        try:
            value = self._table.record(row).get(self.key)
        except DataError as error:
            raise DataError(f"{self.path}: row {row + 1}: {error}; fetch the file again") from error
        if not isinstance(value, str):
            raise DataError(f'{self.path}: row {row + 1} has no text "{self.key}"; give the file of candidates as pool')
        return value
