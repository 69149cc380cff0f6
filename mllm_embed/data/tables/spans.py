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

from ...errors import DataError

_CHUNK = 1 << 23
_NEWLINE, _QUOTE, _BACKSLASH = (ord(letter) for letter in '\n"\\')
_OPEN, _CLOSE = np.frombuffer(b"{[", dtype=np.uint8), np.frombuffer(b"}]", dtype=np.uint8)
_NO_CELLS = np.empty((0, 2), dtype=np.int64)
_BOM = b"\xef\xbb\xbf"
# RFC 4180: a quote opens a cell only where the cell starts, and two of them inside are one character. The quote comes
# first in the pattern, and what stands before it second, since a search is quick for what starts with a fixed byte.
_CELL = re.compile(rb'"(?<![^,\n]")[^"]*(?:""[^"]*)*(?:"((?=[,\r\n]|\Z))?)?')


class Spans(NamedTuple):
    """Records of one file: [N] int64 first bytes, [N] int32 lengths in bytes."""

    starts: np.ndarray
    lengths: np.ndarray


def mapped(path: Path) -> np.ndarray:
    """Map the bytes of a file [size] uint8 without reading it. Raises DataError for one that is empty or unreadable."""
    try:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty; fetch it again")
        return np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def json_spans(path: Path) -> Spans:
    """Return the objects of a JSON list, or the lines of JSON lines: the first character decides.

    Raises DataError for a list that ends too early, and a file that is neither.
    """
    data = mapped(path)
    head = bytes(data[:4096]).removeprefix(_BOM).lstrip()
    if head.startswith(b"["):
        return _elements(data, path)
    if head.startswith(b"{"):
        return _lines(data, _NO_CELLS)
    raise DataError(f"{path} is neither a JSON list of rows nor one JSON object a line; fetch it again")


def line_spans(path: Path, quoted: bool) -> Spans:
    """Return the lines of a file without the blank ones; `quoted`: a line break in a quoted cell ends none, as in CSV.

    Raises DataError for a quoted cell that is not closed.
    """
    data = mapped(path)
    return _lines(data, _broken_cells(data, path) if quoted else _NO_CELLS)


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


def _lines(data: np.ndarray, cells: np.ndarray) -> Spans:
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
    return Spans(starts[filled], lengths[filled].astype(np.int32))


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
    if depth or inside:
        raise DataError(f"{path} ends in the middle of its JSON list; fetch it again")
    first = np.concatenate(starts).astype(np.int64)
    return Spans(first, (np.concatenate(stops) - first).astype(np.int32))


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
