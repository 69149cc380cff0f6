"""Tables: the records of a source's files by number, none of them held in memory."""

from __future__ import annotations

import csv
import io
import mmap
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...errors import DataError
from ...files import parse_json
from .spans import Spans, json_spans, line_spans, mapped

Record = dict[str, Any]
BLOCK = 1024
PICTURE = b"picture"
NO_VALUE = (ValueError, OverflowError)
"""What Arrow raises for a cell that no Python value is: text that is no UTF-8, a time that no calendar has."""


class Table(Protocol):
    """Records of one or more files, in the order of the files."""

    files: Sequence[Path]

    def __len__(self) -> int: ...

    def record(self, index: int, columns: Collection[str] | None = None) -> Record:
        """Return a record, of which only these columns count; by default all.

        Raises DataError, without the place, for one that is not as its file type demands.
        """
        ...

    def scan(self, columns: Collection[str], words: Collection[str] = ()) -> Iterator[Record | DataError]:
        """Yield all records in order, of which only these columns count.

        PICTURE stands for bytes, which are a picture's, but for columns that are `words`.
        """
        ...

    def columns(self) -> list[str]:
        """Return the columns of the first record, without reading pictures. Raises DataError as `record`."""
        ...

    def place(self, index: int) -> tuple[int, int]:
        """Return the number of a record's file, and its own there, from 0."""
        ...

    def blocks(self) -> np.ndarray:
        """Return the first record of each run that is best read together, [K] int64."""
        ...


class TextTable:
    """JSON lists, JSON lines, CSV, TSV: records found once, and parsed when asked for."""

    def __init__(self, files: Sequence[Path], spans: Sequence[Spans], parse: Callable[[bytes, int], Record]):
        """Take the spans of each file's records; `parse` makes a record of its bytes and the number of its file."""
        self.files, self._spans, self._parse = files, spans, parse
        self._starts = [0, *accumulate(len(spans.starts) for spans in self._spans)]
        self._data: dict[int, mmap.mmap] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_data": {}}  # a worker process maps the files for itself

    def place(self, index: int) -> tuple[int, int]:
        """As `Table.place`."""
        return part_and_row(self._starts, index)

    def record(self, index: int, columns: Collection[str] | None = None) -> Record:
        """As `Table.record`."""
        file, row = self.place(index)
        spans = self._spans[file]
        start = int(spans.starts[row])
        return self._parse(self._bytes(file)[start : start + int(spans.lengths[row])], file)

    def columns(self) -> list[str]:
        """As `Table.columns`."""
        return list(self.record(0))

    def scan(self, columns: Collection[str], words: Collection[str] = ()) -> Iterator[Record | DataError]:
        """As `Table.scan`, with all columns."""
        return each(self.record, len(self))

    def _bytes(self, file: int) -> mmap.mmap:
        if file not in self._data:
            with self.files[file].open("rb") as opened:
                self._data[file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return self._data[file]

    def blocks(self) -> np.ndarray:
        """As `Table.blocks`."""
        return run_starts(self._starts, BLOCK)


class ArrowTable:
    """Parquet files, converted once by `datasets` to Arrow files in its cache, which are mapped and not read.

    Neighbours with one schema are converted together; others, say with a column that is empty in one file, alone.
    """

    def __init__(self, files: Sequence[Path], header: tuple[str, ...] | None = None):
        """Convert the files; `header`, of tables of text, is not looked at. Raises DataError."""
        import pyarrow.parquet

        self.files = files
        self._starts = [0, *accumulate(parquet_metadata(path).num_rows for path in files)]
        alike = groupby(files, key=lambda path: pyarrow.parquet.read_schema(path).remove_metadata())
        self._parts = [_arrow(list(run)) for _, run in alike]
        self._firsts = [0, *accumulate(len(part) for part in self._parts)]

    def __len__(self) -> int:
        return self._starts[-1]

    def place(self, index: int) -> tuple[int, int]:
        """As `Table.place`."""
        return part_and_row(self._starts, index)

    def record(self, index: int, columns: Collection[str] | None = None) -> Record:
        """As `Table.record`."""
        part, row = part_and_row(self._firsts, index)
        return _row(self._parts[part], row)

    def columns(self) -> list[str]:
        """As `Table.columns`."""
        return list(self._parts[0].features)

    def scan(self, columns: Collection[str], words: Collection[str] = ()) -> Iterator[Record | DataError]:
        """As `Table.scan`, with these columns alone."""
        for part in self._parts:
            read, pictures = split_columns(part.features.arrow_schema, columns, words)
            if read:
                for row in _rows(part.select_columns(read)):
                    yield row if isinstance(row, DataError) else row | pictures
            else:
                yield from (pictures for _ in range(len(part)))

    def blocks(self) -> np.ndarray:
        """As `Table.blocks`."""
        return np.arange(0, len(self), BLOCK)


def _rows(data: Any) -> Iterator[Record | DataError]:
    """Yield the rows of a `datasets.Dataset`, which is quick at columns and slow at rows, or why there is none."""
    for first in range(0, len(data), BLOCK):
        try:
            batch = data[first : first + BLOCK]
        except NO_VALUE:  # of one cell among them
            yield from each(partial(_row, data), min(first + BLOCK, len(data)), first)
            continue
        for cells in zip(*batch.values(), strict=True):
            yield dict(zip(batch, cells, strict=True))


def _row(data: Any, row: int) -> Record:
    try:
        found: Record = data[row]
    except NO_VALUE as error:
        raise unreadable(error) from error
    return found


def unreadable(error: Exception) -> DataError:
    """Return the error for a record with a cell of `NO_VALUE`."""
    return DataError(f"it holds a cell that cannot be read ({error}); write it anew, or leave it out")


def part_and_row(starts: Sequence[int], index: int) -> tuple[int, int]:
    """Return the part that holds a record, and the record's number there; `starts` are the parts' first records."""
    part = bisect_right(starts, index) - 1
    return part, index - starts[part]


def run_starts(starts: Sequence[int], size: int) -> np.ndarray:
    """Return the first records [K] int64 of runs of `size`, none of which crosses from one part to the next."""
    return np.concatenate([np.arange(first, last, size) for first, last in pairwise(starts)])


def split_columns(schema: Any, columns: Collection[str], words: Collection[str] = ()) -> tuple[list[str], Record]:
    """Return those of `columns` that an Arrow schema has: the names of columns to read, and PICTURE for pictures.

    Columns that are `words` are read, whatever they hold.
    """
    read: list[str] = []
    pictures: Record = {}
    for field in schema:
        if field.name not in columns:
            continue
        if field.name not in words and _holds_pictures(field):
            pictures[field.name] = PICTURE
        else:
            read.append(field.name)
    return read, pictures


def _holds_pictures(field: Any) -> bool:
    """Return whether an Arrow field is bytes of files, or the struct that `datasets` makes of images."""
    import pyarrow.types as types

    if types.is_struct(field.type):
        return field.type.get_field_index("bytes") >= 0
    return types.is_binary(field.type) or types.is_large_binary(field.type)


def each(record: Callable[[int], Record], stop: int, start: int = 0) -> Iterator[Record | DataError]:
    """Yield every record, or why there is none."""
    for index in range(start, stop):
        try:
            yield record(index)
        except DataError as error:
            yield error


def json_table(files: Sequence[Path], header: tuple[str, ...] | None = None) -> TextTable:
    """Return the table of JSON lists of objects, or of JSON lines."""
    return TextTable(files, [json_spans(path) for path in files], _object)


def csv_table(files: Sequence[Path], header: tuple[str, ...] | None = None) -> TextTable:
    """Return the table of CSV. The first line names the columns, unless `header` does; quotes may hold line breaks."""
    csv.field_size_limit(1 << 24)  # captions may be longer than the 128 KiB that the module expects
    return _lines_table(files, header, _cells, quoted=True)


def tsv_table(files: Sequence[Path], header: tuple[str, ...] | None = None) -> TextTable:
    """Return the table of cells between tabs, unquoted. The first line names the columns, unless `header` does."""
    return _lines_table(files, header, _tabs, quoted=False)


def _lines_table(
    files: Sequence[Path], header: tuple[str, ...] | None, split: Callable[[bytes], list[str]], quoted: bool
) -> TextTable:
    spans = [line_spans(path, quoted) for path in files]
    if header:
        return TextTable(files, spans, _Named([list(header)] * len(files), split))
    headers = []
    for path, (starts, lengths) in zip(files, spans, strict=True):
        if not len(starts):
            raise DataError(f"{path} has no header line, which must name the columns; fetch it again")
        try:
            headers.append(split(bytes(mapped(path)[starts[0] : starts[0] + lengths[0]])))
        except DataError as error:
            raise DataError(f"{path}: the first line must name the columns, but {error}") from error
        check_columns(path, headers[-1])
        _check_commas(path, headers[-1] if quoted else [])
    return TextTable(files, [Spans(starts[1:], lengths[1:]) for starts, lengths in spans], _Named(headers, split))


def _check_commas(path: Path, names: Sequence[str]) -> None:
    """Raise DataError for CSV whose columns lie between semicolons or tabs, as spreadsheets write it in many places."""
    if len(names) == 1 and not {";", "\t"}.isdisjoint(names[0]):
        raise DataError(f"{path} has semicolons or tabs between its columns; save it as CSV with commas, in UTF-8")


def check_columns(path: Path, names: Sequence[str]) -> None:
    """Raise DataError for two columns of one name, of which a row could keep only one; nameless ones are never read."""
    twice = next((name for name in names if name.strip() and names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f'{path} has two columns "{twice}"; rename one of them')


def parquet_metadata(path: Path) -> Any:
    """Return the metadata of a parquet file. Raises DataError for a file that is none, or names a column twice."""
    import pyarrow
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_metadata(path)
        names = metadata.schema.to_arrow_schema().names
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a parquet file ({str(error).splitlines()[0]}); fetch it again") from error
    check_columns(path, names)
    return metadata


def _arrow(files: Sequence[Path]) -> Any:
    import datasets

    quiet = datasets.utils.logging.get_verbosity()
    datasets.utils.logging.set_verbosity_error()
    try:
        data = datasets.Dataset.from_parquet([str(path) for path in files])
    except (datasets.exceptions.DatasetGenerationError, datasets.exceptions.DatasetsError, ValueError) as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise DataError(f"{files[0].parent}: its parquet files cannot be converted ({cause})") from error
    finally:
        datasets.utils.logging.set_verbosity(quiet)
    for name, feature in data.features.items():
        if isinstance(feature, datasets.Image):  # the bytes as they are: who wants a picture decodes it
            data = data.cast_column(name, datasets.Image(decode=False))
    return data


def _object(line: bytes, _: int) -> Record:
    try:
        value = parse_json(_decoded(line))  # from bytes it would guess the encoding first
    except (ValueError, RecursionError) as error:
        raise DataError(f"it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"it is no JSON object but {line[:40].decode(errors='replace')}")
    return value


@dataclass(frozen=True)
class _Named:
    """Cells with the names that the header of their file gives them."""

    headers: list[list[str]]
    split: Callable[[bytes], list[str]]

    def __call__(self, line: bytes, file: int) -> Record:
        header, cells = self.headers[file], self.split(line)
        if len(cells) != len(header):
            raise DataError(f"it has {len(cells)} cells, and the columns are {', '.join(header)}")
        return dict(zip(header, cells, strict=True))


def _cells(line: bytes) -> list[str]:
    try:
        rows = list(csv.reader(io.StringIO(_decoded(line), newline=""), strict=True))
    except csv.Error as error:
        raise DataError(f"it is not CSV ({error})") from error
    if len(rows) != 1:
        raise DataError(f"it is not CSV (it reads as {len(rows)} rows: a line break outside quotes)")
    return rows[0]


def _tabs(line: bytes) -> list[str]:
    return _decoded(line).split("\t")


def _decoded(line: bytes) -> str:
    if b"\0" in line:
        raise DataError("it holds a NUL byte, which is no text; take it out")
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"it is not UTF-8 text (byte {error.start} of the row); save the file as UTF-8") from error
