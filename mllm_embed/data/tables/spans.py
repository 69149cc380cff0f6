"""Places of the records in a text file, so that millions of them can be read one by one without being held.

A record costs 12 bytes of memory: where it starts and how long it is. A bad line of JSON lines or TSV spoils itself
alone. In a JSON list and in CSV a bracket or quote that is left open would swallow what follows, so that such a file is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError, reason

_CHUNK = 1 << 23
_NEWLINE, _QUOTE, _BACKSLASH, _COMMA = (ord(letter) for letter in '\n"\\,')
_OPEN, _CLOSE = np.frombuffer(b"{[", dtype=np.uint8), np.frombuffer(b"}]", dtype=np.uint8)
_BETWEEN = np.frombuffer(b", \t\r\n", dtype=np.uint8)
_NO_CELLS = np.empty((0, 2), dtype=np.int64)
_BOM = b"\xef\xbb\xbf"
_HEAD = 4096
_LONGEST = np.iinfo(np.int32).max
# how files start that are no text in UTF-8, whatever their names say
_NO_TEXT = {
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
    b"\x1f\x8b": "compressed by gzip: unpack it",
    b"BZh": "compressed by bzip2: unpack it",
    b"\xfd7zXZ": "compressed by xz: unpack it",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it",
    b"PK\x03\x04": "a zip archive or a workbook: unpack it, or save it as CSV",
    b"PAR1": "a parquet file: name it .parquet",
}
_GAPS = 1 << 18  # gaps between records that are looked at together
# RFC 4180: a quote opens a cell only where the cell starts, and two of them inside are one character. The quote comes
# first in the pattern, and what stands before it second, since a search is quick for what starts with a fixed byte.
_CELL = re.compile(rb'"(?<![^,\n]")[^"]*(?:""[^"]*)*(?:"((?=[,\r\n]|\Z))?)?')


class Spans(NamedTuple):
    """Records of one file: [N] int64 first bytes, [N] int32 lengths in bytes."""

    starts: np.ndarray
    lengths: np.ndarray


def _spans(starts: np.ndarray, stops: np.ndarray, path: Path) -> Spans:
    """Return records by their first bytes and the bytes after them, [N] int64 each."""
    lengths = stops - starts
    if len(lengths) and lengths.max() > _LONGEST:
        raise DataError(f"{path}: row {int(lengths.argmax()) + 1} has {lengths.max():,} bytes; cut it into rows")
    return Spans(starts, lengths.astype(np.int32))


def mapped(path: Path) -> np.ndarray:
    """Map the bytes of a text file [size] uint8 without reading it.

    Raises DataError for one that is empty, unreadable, or by its start no text in UTF-8.
    """
    try:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty; fetch it again")
        data = np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    head = bytes(data[:_HEAD])
    for start, what in _NO_TEXT.items():
        if head.startswith(start):
            raise DataError(f"{path} is {what}")
    if b"\0" in head:
        raise DataError(f"{path} holds NUL bytes, so it is UTF-16 or no text: save it as UTF-8")
    return data


def json_spans(path: Path) -> Spans:
    """Return the objects of a JSON list, or the lines of JSON lines: the first character decides.

    Raises DataError for a list that ends too early, and a file that is neither.
    """
    data = mapped(path)
    head = bytes(data[:_HEAD]).removeprefix(_BOM).lstrip()
    if head.startswith(b"["):
        return _elements(data, path)
    if head.startswith(b"{"):
        return _lines(data, _NO_CELLS, path)
    raise DataError(f"{path} is neither a JSON list of rows nor one JSON object a line; fetch it again")


def line_spans(path: Path, quoted: bool) -> Spans:
    """Return the lines of a file without the blank ones; `quoted`: a line break in a quoted cell ends none, as in CSV.

    Raises DataError for a quoted cell that is not closed.
    """
    data = mapped(path)
    return _lines(data, _broken_cells(data, path) if quoted else _NO_CELLS, path)


def _broken_cells(data: np.ndarray, path: Path) -> np.ndarray:
    """Return the first and last byte [C, 2] int64 of the quoted cells that hold line breaks."""
    first = len(_BOM) if bytes(data[:3]) == _BOM else 0
    found = []
    for cell in _CELL.finditer(data.data[first:]):
        start, stop = first + cell.start(), first + cell.end()
        if b"\n" not in cell[0] and stop < len(data):
            continue  # what is wrong in it is its row's mistake alone
        if cell[1] is None:
            line = 1 + sum(int(np.count_nonzero(part == _NEWLINE)) for _, part in _chunks(data[:start]))
            raise DataError(f"{path}: line {line} opens a quote that is not closed; close it, or double it in a cell")
        found.append((start, stop - 1))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _lines(data: np.ndarray, cells: np.ndarray, path: Path) -> Spans:
    """Return the lines that end outside these cells [C, 2]."""
    ends = []
    for base, chunk in _chunks(data):
        breaks = np.flatnonzero(chunk == _NEWLINE) + base
        ends.append(breaks[np.searchsorted(cells[:, 0], breaks) == np.searchsorted(cells[:, 1], breaks)])
    stops = np.concatenate([*ends, [len(data)]]).astype(np.int64)
    starts = np.concatenate([[len(_BOM) if bytes(data[:3]) == _BOM else 0], stops[:-1] + 1]).astype(np.int64)
    lengths = stops - starts
    filled = lengths > 0
    short = np.flatnonzero(filled & (lengths <= 2))  # a "\r" alone, say
    filled[short] = [bool(bytes(data[starts[at] : stops[at]]).strip()) for at in short]
    return _spans(starts[filled], stops[filled], path)


def _elements(data: np.ndarray, path: Path) -> Spans:
    """Return the objects of a list: where the depth of brackets outside strings goes from 1 to 2, and back."""
    starts, stops, depth, inside = [], [], 0, 0
    for base, chunk in _chunks(data):
        quotes = _quotes(chunk)
        brackets = np.flatnonzero(np.isin(chunk, _OPEN) | np.isin(chunk, _CLOSE))
        brackets = brackets[(np.searchsorted(quotes, brackets) + inside) % 2 == 0]
        inside = (inside + len(quotes)) % 2
        opening = np.isin(chunk[brackets], _OPEN)
        depths = np.cumsum(np.where(opening, 1, -1)) + depth
        starts.append(brackets[opening & (depths == 2)] + base)
        stops.append(brackets[~opening & (depths == 1)] + base + 1)
        depth = int(depths[-1]) if len(depths) else depth
    if depth > 0 or inside:
        raise DataError(f"{path} ends in the middle of its JSON list; fetch it again")
    found = _spans(np.concatenate(starts).astype(np.int64), np.concatenate(stops).astype(np.int64), path)
    _check_between(data, found, path)
    return found


def _check_between(data: np.ndarray, found: Spans, path: Path) -> None:
    """Raise DataError where a list holds anything but objects with a comma between two: it would be passed over."""
    starts, stops = found.starts, found.starts + found.lengths
    count = len(starts)
    ends = (int(starts[0]), int(stops[-1])) if count else (len(data), 0)
    head, tail = bytes(data[: ends[0]]).removeprefix(_BOM).strip(), bytes(data[ends[1] :]).removeprefix(_BOM).strip()
    if count and head != b"[":
        raise _between(path, 0, head[1:])
    if not re.fullmatch(rb",?\s*\]" if count else rb"\[\s*\]", tail):
        raise _between(path, count, tail)
    for base in range(0, count - 1, _GAPS):
        part = slice(base, min(base + _GAPS, count - 1))
        wrong = _wrong_gap(data, stops[part], starts[1:][part])
        if wrong is not None:
            at = base + wrong
            raise _between(path, at + 1, bytes(data[stops[at] : starts[at + 1]]))


def _between(path: Path, row: int, junk: bytes) -> DataError:
    shown = junk.strip(b" \t\r\n,")[:40].decode("utf-8", "replace")
    what = f"{shown!r}" if shown else "no comma, or more than one"
    return DataError(
        f"{path}: {f'behind row {row}' if row else 'before its first row'} stands {what}; a JSON list of rows holds "
        "objects with a comma between two, and nothing else: mend it, or write one object a line"
    )


def _wrong_gap(data: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> int | None:
    """Return the first gap, of [G] int64 first bytes and bytes after, that is more or less than a comma and space."""
    sizes = ends - begins
    if (sizes < 1).any():
        return int(np.flatnonzero(sizes < 1)[0])
    firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    letters = data[np.repeat(begins - firsts, sizes) + np.arange(int(sizes.sum()))]
    commas = np.add.reduceat((letters == _COMMA).astype(np.int64), firsts)
    others = np.add.reduceat((~np.isin(letters, _BETWEEN)).astype(np.int64), firsts)
    wrong = np.flatnonzero((commas != 1) | (others > 0))
    return int(wrong[0]) if len(wrong) else None


def _quotes(chunk: np.ndarray) -> np.ndarray:
    """Return the positions [Q] of the quotes that no backslash escapes."""
    quotes = np.flatnonzero(chunk == _QUOTE)
    after = quotes[(quotes > 0) & (chunk[quotes - 1] == _BACKSLASH)]
    escaped = [at for at in after if _run(chunk, int(at)) % 2]
    return np.setdiff1d(quotes, escaped, assume_unique=True) if escaped else quotes


def _run(chunk: np.ndarray, at: int) -> int:
    """Return how many backslashes stand before `at`."""
    count = 0
    while at - count > 0 and chunk[at - count - 1] == _BACKSLASH:
        count += 1
    return count


def _chunks(data: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield pieces of a file and where they start; none ends in a backslash, which belongs to what follows."""
    base = 0
    while base < len(data):
        stop = min(base + _CHUNK, len(data))
        while stop < len(data) and data[stop - 1] == _BACKSLASH:
            stop += 1
        yield base, np.asarray(data[base:stop])
        base = stop
