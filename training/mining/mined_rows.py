"""What mined files say of rows, read for training: each line when it is asked for, so that millions are not held."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mllm_embed.data.tables.spans import Spans
from mllm_embed.data.tables.table import TextTable
from mllm_embed.errors import DataError, reason
from mllm_embed.files import parse_json
from mllm_embed.types import Document, Item

from ..data.rows import ListRows, MixedRows
from .mined_file import MINED_FORMAT, described

_BOM = b"\xef\xbb\xbf"
_BAR_BYTES = 50_000_000  # of a file from which on reading it takes long enough to show it
_NAMED, _BY_ROW = {"image", "text", "source", "folder"}, {"row", "role", "source"}  # keys of a negative


class MinedRows:
    """What a mined file says of the rows of sources: hard negatives and clusters. 40 bytes of memory a row.

    Args:
        path: the file.
        mixed: the rows for which it is read.
        rows: "pairs", "triplets" or "texts".

    Raises DataError: no such file, no mined file, one made for other sources or rows, or a line that is not as
    `mined_file` documents.
    """

    def __init__(self, path: Path, mixed: MixedRows, rows: str):
        self.path, self.mixed = path, mixed
        lines = _lines(path)
        header = next(lines, None)
        if header is None:
            raise DataError(f"{path} is empty; mine again")
        self._sources = _Sources(path, header.value, mixed, rows)
        found = [array("q") for _ in range(5)]
        for line in lines:
            part, record = self._sources.row_of(line.value, line.where)
            self._check(line.value, part, line.where)
            cluster = line.value.get("cluster")
            values = part, record, line.start, line.length, -1 if cluster is None else cluster
            for column, value in zip(found, values, strict=True):
                column.append(value)
        parts, records, starts, lengths, clusters = (np.array(column, np.int64) for column in found)
        keys = self._keys_of(parts, records)
        order = np.argsort(keys, kind="stable")
        self._keys, self._clusters = keys[order], clusters[order]
        self._table = TextTable([path], [Spans(starts[order], lengths[order].astype(np.int32))], _parsed)
        self._check_twice()

    def negatives(self, part: int, record: int) -> tuple[Item, ...]:
        """Return the wrong answers for a row, the hardest first, by its source's number and its own in the files.

        Raises DataError for one that stands in a row that cannot be made.
        """
        at = int(self._at(np.array([part]), np.array([record]))[0])
        if at < 0:
            return ()
        return tuple(self._item(entry, part, str(self.path)) for entry in self._table.record(at)["negatives"])

    def clusters(self) -> np.ndarray:
        """Return the cluster of every row of all sources, [N] int64, -1 where it has none."""
        records = [part.records() for part in self.mixed.parts]
        at = self._at(self.mixed.sources().astype(np.int64), np.concatenate(records))
        return np.where(at < 0, -1, self._clusters[at]) if len(self._clusters) else at

    def _keys_of(self, parts: np.ndarray, records: np.ndarray) -> np.ndarray:
        return records * len(self.mixed.parts) + parts

    def _at(self, parts: np.ndarray, records: np.ndarray) -> np.ndarray:
        """Return where each row stands among those of the file, [n] int64, -1 where it does not."""
        keys = self._keys_of(parts, records)
        if not len(self._keys):
            return np.full(len(keys), -1)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, at, -1)

    def _check_twice(self) -> None:
        for at in np.flatnonzero(self._keys[1:] == self._keys[:-1]).tolist():
            raise DataError(f"{self.path}: row {_name(self._table.record(at))} stands twice; mine again")

    def _check(self, line: Mapping[str, Any], part: int, where: str) -> None:
        cluster, negatives = line.get("cluster"), line.get("negatives")
        if cluster is not None and not _counts(cluster):
            raise DataError(f'{where}: "cluster" must be a number from 0 on, not {json.dumps(cluster)}')
        if not isinstance(negatives, list):
            raise DataError(f'{where}: "negatives" must be a list')
        for entry in negatives:
            if isinstance(entry, dict) and "role" in entry:
                self._stands_in(entry, part, where)
            else:
                self._item(entry, part, where)

    def _item(self, entry: Any, part: int, where: str) -> Item:
        """Return a negative of a row of source `part`. Raises DataError where it is not of the documented form."""
        if isinstance(entry, dict) and "role" in entry:
            source, record = self._stands_in(entry, part, where)
            row = self.mixed.parts[source].of_record(record)
            if entry["role"] not in row.roles:
                raise DataError(f"{where}: row '{row.id}' has no {entry['role']}; mine again")
            return row.roles[entry["role"]]
        names = _picture_names(entry)
        if names is None:
            raise DataError(
                f'{where}: a negative is an "image", a "text" or both, or a "row" and its "role", not '
                f"{json.dumps(entry)[:60]}"
            )
        folder = self._folder(entry, part, where) if names else Path()
        _check_inside(names, folder, where)
        pictures = tuple(folder / name for name in names)
        try:
            return Document(image=(pictures[0] if len(pictures) == 1 else pictures) or None, text=entry.get("text"))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error

    def _folder(self, entry: Mapping[str, Any], part: int, where: str) -> Path:
        folders = self.mixed.parts[self._sources.number(entry.get("source"), part, where)].roots()
        number = entry.get("folder", 0)
        if not _counts(number) or number >= len(folders):
            raise DataError(f'{where}: "folder" {json.dumps(number)[:20]} is none of its source; mine again')
        return Path(folders[number])

    def _stands_in(self, entry: Mapping[str, Any], part: int, where: str) -> tuple[int, int]:
        """Return the source and the record of the row that a negative stands in."""
        if not entry.keys() <= _BY_ROW or not isinstance(entry["role"], str):
            raise DataError(f'{where}: a negative of a row is a "row" and its "role", not {json.dumps(entry)[:60]}')
        source = self._sources.number(entry.get("source"), part, where)
        return source, self._sources.record(entry.get("row"), source, where)


class _Sources:
    """The sources of a mined file among those for which it is read."""

    def __init__(self, path: Path, header: Mapping[str, Any], mixed: MixedRows, rows: str):
        self.path, self.mixed = path, mixed
        self._ids: dict[str, int] | None = None
        listed = self._listed(header)
        if header.get("rows") != rows:
            raise DataError(f"{path} was mined for {header.get('rows')}, not for {rows}; mine again with --rows {rows}")
        self._numbers = self._matched(listed)

    def _listed(self, header: Mapping[str, Any]) -> list[str]:
        """Return the fingerprints of the sources that the file was mined from. Raises DataError for another file."""
        if header.get("format") == 1 and isinstance(header.get("data"), str):
            self._ids = _ids(self.mixed)
            return [header["data"]]
        sources = header.get("sources")
        listed = [source.get("fingerprint") if isinstance(source, dict) else None for source in sources or ()]
        if header.get("format") != MINED_FORMAT or not isinstance(sources, list) or None in listed:
            raise DataError(
                f"{self.path} is no mined file of format {MINED_FORMAT}: its first line must say what made it; mine "
                "again"
            )
        return list(map(str, listed))

    def _matched(self, listed: list[str]) -> list[int]:
        """Return for each source of the file its number among those that are read; they may stand in another order."""
        left = {number: described(part)["fingerprint"] for number, part in enumerate(self.mixed.parts)}
        numbers = []
        for fingerprint in listed:
            number = next((number for number, own in left.items() if own == fingerprint), None)
            if number is None:
                raise DataError(
                    f"{self.path} was mined from data other than {self._where(left)} as it is now; mine again"
                )
            numbers.append(number)
            del left[number]
        if left:
            raise DataError(f"{self.path} was mined without {self._where(left)}; mine again from all sources")
        return numbers

    def _where(self, numbers: Mapping[int, str]) -> str:
        parts = [self.mixed.parts[number] for number in numbers] or self.mixed.parts
        return ", ".join(str(part.source.path) for part in parts)

    def row_of(self, line: Mapping[str, Any], where: str) -> tuple[int, int]:
        """Return the source and the record that a line is about. Raises DataError where there is no such row."""
        if self._ids is None:
            part = self.number(line.get("source"), None, where)
            return part, self.record(line.get("row"), part, where)
        name = line.get("id")
        if not isinstance(name, str) or name not in self._ids:
            raise DataError(f"{where}: there is no row {json.dumps(name)} in {self._where({})}; mine again")
        return 0, self._ids[name]

    def number(self, given: Any, own: int | None, where: str) -> int:
        """Return the number here of a source by its number in the file; that of the row's own where none is given."""
        if given is None and own is not None:
            return own
        if not _counts(given) or given >= len(self._numbers):
            raise DataError(f'{where}: there is no "source" {json.dumps(given)[:20]} in its first line; mine again')
        return self._numbers[given]

    def record(self, given: Any, part: int, where: str) -> int:
        """Return the number of a row in its source's files. Raises DataError for one that they do not have."""
        if not _counts(given) or given >= self.mixed.parts[part].record_count:
            source = self.mixed.parts[part].source.path
            raise DataError(f"{where}: there is no row {json.dumps(given)[:20]} in {source}; mine again")
        return int(given)


def _ids(mixed: MixedRows) -> dict[str, int]:
    """Return the rows of a data folder by their ids, of which files of format 1 know no more."""
    part = mixed.parts[0]
    if len(mixed.parts) > 1 or not isinstance(part, ListRows):
        return {}  # such a file is of one data folder: the fingerprints tell
    return {row.id: number for number, row in enumerate(part.rows)}


def _name(line: Mapping[str, Any]) -> str:
    return json.dumps(line.get("id", line.get("row")))


def _counts(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62  # a bool is an int, and no number here


def _check_inside(names: Sequence[str], folder: Path, where: str) -> None:
    """Raise DataError for a name that leads out of the folder: a mined file from elsewhere must not make training read
    outside the folders of its sources."""
    for name in names:
        if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
            raise DataError(f'{where}: "{name}" must be a path inside {folder}')


def _picture_names(entry: Any) -> list[str] | None:
    """Return the pictures that a negative names, None where it is not of the documented form."""
    if not isinstance(entry, dict) or not entry.keys() <= _NAMED:
        return None
    names = entry.get("image", [])
    if isinstance(names, str):
        return [names] if names else None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        return None
    found: list[str] = names
    return found


class _Line:
    """A line of a file: its value, a JSON object, and the place of its bytes."""

    def __init__(self, value: dict[str, Any], where: str, start: int, length: int):
        self.value, self.where, self.start, self.length = value, where, start, length


def _lines(path: Path) -> Iterator[_Line]:
    """Yield the JSON objects of a file, under a bar where that takes long. Raises DataError for anything else."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file, tqdm(
            total=size, desc=f"reading {path.name}", unit="B", unit_scale=True, leave=False,
            disable=size < _BAR_BYTES or None,
        ) as bar:  # fmt: skip
            start = 0
            for number, line in enumerate(file, start=1):
                bar.update(len(line))
                text = line.removeprefix(_BOM) if number == 1 else line
                if text.strip():
                    where = f"{path}:{number}"
                    yield _Line(_object(text, where), where, start, len(line))
                start += len(line)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: make it with mllm-embed-train mine") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = parse_json(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); mine again") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} must be a JSON object; mine again")
    return value


def _parsed(line: bytes, _: int) -> dict[str, Any]:
    return _object(line, "a mined file's line")
