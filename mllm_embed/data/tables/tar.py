"""Tar shards of samples: their records by number, read from where they lie."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, reason
from ...files import parse_json
from .table import PICTURE, Record, each, part_and_row, run_starts
from .tar_list import PASSED, FileShard, file_shard

KEY = "__key__"  # what a tar shard calls a sample
OPEN_FILES, LISTS = 64, 256
_WORDS = ("txt", "text", "caption", "cls")
_SAMPLES = 256
_HEADERS = 1 << 14  # bytes between two files of a sample that are read with them, rather than one by one


class TarTable:
    """Samples of tar files, `key.jpg` beside `key.json` or `key.txt`, read from where they lie.

    A record has KEY and an entry for each ending: an object for json, a text for txt, bytes for others. The
    members of each file are listed once, and the lists are kept in the Hugging Face cache, a few of them in memory.

    Attributes:
        passed: the names of members that are part of no sample, by why not.
    """

    def __init__(self, files: Sequence[Path], header: tuple[str, ...] | None = None):
        """List the files' members; `header`, of tables of text, is not looked at. Raises DataError."""
        from tqdm import tqdm

        self.files = files
        bar = tqdm(files, desc="listing tar files", unit="file", leave=False, disable=len(files) < 8)
        self._starts = [0]
        self.passed: dict[str, list[str]] = {}
        for path in bar:
            shard = file_shard(path)
            self._starts.append(self._starts[-1] + len(shard.keys))
            for name, kind in zip(shard.passed.tolist(), shard.reasons.tolist(), strict=True):
                self.passed.setdefault(PASSED[kind], []).append(name.decode("utf-8", "surrogateescape"))
        self._open: OrderedDict[int, int] = OrderedDict()
        self._lists: OrderedDict[int, FileShard] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict(), "_lists": OrderedDict()}  # descriptors are a process's own

    def place(self, index: int) -> tuple[int, int]:
        """As `Table.place`."""
        return part_and_row(self._starts, index)

    def record(self, index: int, columns: Collection[str] | None = None) -> Record:
        """As `Table.record`; of other members than `columns` there are the bytes."""
        file, row = self.place(index)
        shard = self._list(file)
        members = shard.members(row)
        record: Record = {KEY: shard.key(row)}
        for (kind, _, _), data in zip(members, self._files(file, members), strict=True):
            record[kind] = _content(kind, data) if columns is None or kind in columns else data
        return record

    def columns(self) -> list[str]:
        """As `Table.columns`."""
        return list(self._words((), 0))

    def scan(self, columns: Collection[str], words: Collection[str] = ()) -> Iterator[Record | DataError]:
        """As `Table.scan`; the texts of these columns are read, for all other members stands PICTURE."""
        return each(partial(self._words, columns), len(self))

    def _words(self, columns: Collection[str], index: int) -> Record:
        file, row = self.place(index)
        shard = self._list(file)
        record: Record = {KEY: shard.key(row)}
        for kind, offset, size in shard.members(row):
            is_text = kind in columns and kind.split(".")[-1] in (*_WORDS, "json")
            record[kind] = _content(kind, self._read(file, offset, size)) if is_text else PICTURE
        return record

    def blocks(self) -> np.ndarray:
        """As `Table.blocks`: neighbours in one file."""
        return run_starts(self._starts, _SAMPLES)

    def _list(self, file: int) -> FileShard:
        if file not in self._lists:
            self._lists[file] = file_shard(self.files[file])
            if len(self._lists) > LISTS:
                self._lists.popitem(last=False)
        self._lists.move_to_end(file)
        return self._lists[file]

    def _files(self, file: int, members: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        """Yield the bytes of a sample's files; where those lie side by side they are read at once."""
        start, stop = members[0][1], max(offset + size for _, offset, size in members)
        if stop - start > sum(size + _HEADERS for _, _, size in members):
            yield from (self._read(file, offset, size) for _, offset, size in members)
            return
        data = self._read(file, start, stop - start)
        yield from (data[offset - start : offset - start + size] for _, offset, size in members)

    def _read(self, file: int, start: int, size: int) -> bytes:
        """Read without a position in the file, which processes forked from one another would share."""
        try:
            if file not in self._open:
                self._open[file] = os.open(self.files[file], os.O_RDONLY)
                if len(self._open) > OPEN_FILES:
                    os.close(self._open.popitem(last=False)[1])
            self._open.move_to_end(file)
            data = os.pread(self._open[file], size, start)
        except OSError as error:
            raise DataError(f"it cannot be read: {reason(error)}") from error
        if len(data) < size:
            raise DataError("its file ends too early; fetch it again")
        return data


def _content(kind: str, data: bytes) -> Any:
    try:
        if kind.split(".")[-1] == "json":
            return parse_json(data)
        return data.decode("utf-8") if kind.split(".")[-1] in _WORDS else data
    except (ValueError, RecursionError) as error:
        raise DataError(f"its {kind} cannot be read ({error})") from error
