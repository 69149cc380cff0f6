"""Shards that hold pictures too: parquet by row groups, tar files by samples, both by number."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, groupby, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import DataError
from ...files import atomic_file
from .table import PICTURE, Record, each, parquet_metadata, part_and_row, run_starts, split_columns

KEY = "__key__"  # what a tar shard calls a sample
OPEN_FILES, LISTS = 64, 256
_WORDS = ("txt", "text", "caption", "cls")
_SAMPLES = 256


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

    def record(self, index: int) -> Record:
        """As `Table.record`; reads its row group."""
        block, row = part_and_row(self._starts, index)
        return self._read(block).slice(row, 1).to_pylist()[0]

    def scan(self, columns: Collection[str]) -> Iterator[Record | DataError]:
        """As `Table.scan`, with these columns alone; for a row group that cannot be read an error for each row."""
        for block, (file, _) in enumerate(self._groups):
            words, pictures = split_columns(self._schema(file), columns)
            try:
                rows = self._load(block, words).to_pylist()
            except DataError as error:
                yield from repeat(error, self._starts[block + 1] - self._starts[block])
            else:
                yield from (row | pictures for row in rows)

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
                return opened.read_row_group(group, columns=columns, use_threads=False)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise DataError(f"row group {group} cannot be read ({str(error).splitlines()[0]})") from error

    def _schema(self, file: int) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.read_schema(self.files[file])


class FileShard(NamedTuple):
    """The list of one tar file of S samples and M members.

    Attributes:
        firsts: [S + 1] int32, the first member of each sample, and M.
        keys: [S] bytes, the names of samples in UTF-8.
        endings: [E] str, the endings that occur.
        kinds: [M] int16, the ending of each member, a number into `endings`.
        offsets, sizes: [M] int64, first byte and number of bytes of each member.
    """

    firsts: np.ndarray
    keys: np.ndarray
    endings: np.ndarray
    kinds: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    def members(self, row: int) -> list[tuple[str, int, int]]:
        """Return ending, first byte and size of each file of a sample."""
        run = slice(int(self.firsts[row]), int(self.firsts[row + 1]))
        names = [str(self.endings[kind]) for kind in self.kinds[run]]
        return list(zip(names, self.offsets[run].tolist(), self.sizes[run].tolist(), strict=True))

    def key(self, row: int) -> str:
        """Return the name of a sample."""
        return self.keys[row].decode("utf-8", "surrogateescape")


class TarTable:
    """Samples of tar files, `key.jpg` beside `key.json` or `key.txt`, read from where they lie.

    A record has KEY and an entry for each ending: an object for json, a text for txt, bytes for others. The
    members of each file are listed once, and the lists are kept in the Hugging Face cache, a few of them in memory.
    """

    def __init__(self, files: Sequence[Path], header: tuple[str, ...] | None = None):
        """List the files' members; `header`, of tables of text, is not looked at. Raises DataError."""
        from tqdm import tqdm

        self.files = files
        bar = tqdm(files, desc="listing tar files", unit="file", leave=False, disable=len(files) < 8)
        self._starts = [0, *accumulate(len(_shard(path).keys) for path in bar)]
        self._open: OrderedDict[int, int] = OrderedDict()
        self._lists: OrderedDict[int, FileShard] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict(), "_lists": OrderedDict()}  # descriptors are a process's own

    def place(self, index: int) -> tuple[int, int]:
        """As `Table.place`."""
        return part_and_row(self._starts, index)

    def record(self, index: int) -> Record:
        """As `Table.record`; the sample's files, which lie side by side, are read at once."""
        file, row = self.place(index)
        shard = self._list(file)
        members = shard.members(row)
        start, stop = members[0][1], max(offset + size for _, offset, size in members)
        data = self._read(file, start, stop - start)
        record: Record = {KEY: shard.key(row)}
        for kind, offset, size in members:
            record[kind] = _content(kind, data[offset - start : offset - start + size])
        return record

    def scan(self, columns: Collection[str]) -> Iterator[Record | DataError]:
        """As `Table.scan`, with all endings."""
        return each(self._words, len(self))

    def _words(self, index: int) -> Record:
        """Return a record with its pictures unread."""
        file, row = self.place(index)
        shard = self._list(file)
        record: Record = {KEY: shard.key(row)}
        for kind, offset, size in shard.members(row):
            is_text = kind.split(".")[-1] in (*_WORDS, "json")
            record[kind] = _content(kind, self._read(file, offset, size)) if is_text else PICTURE
        return record

    def blocks(self) -> np.ndarray:
        """As `Table.blocks`: neighbours in one file."""
        return run_starts(self._starts, _SAMPLES)

    def _list(self, file: int) -> FileShard:
        if file not in self._lists:
            self._lists[file] = _shard(self.files[file])
            if len(self._lists) > LISTS:
                self._lists.popitem(last=False)
        self._lists.move_to_end(file)
        return self._lists[file]

    def _read(self, file: int, start: int, size: int) -> bytes:
        """Read without a position in the file, which processes forked from one another would share."""
        try:
            if file not in self._open:
                self._open[file] = os.open(self.files[file], os.O_RDONLY)
                if len(self._open) > OPEN_FILES:
                    os.close(self._open.popitem(last=False)[1])
            self._open.move_to_end(file)
            return os.pread(self._open[file], size, start)
        except OSError as error:
            raise DataError(f"it cannot be read: {error.strerror}") from error


def _content(kind: str, data: bytes) -> Any:
    try:
        if kind.split(".")[-1] == "json":
            return json.loads(data)
        return data.decode("utf-8") if kind.split(".")[-1] in _WORDS else data
    except ValueError as error:
        raise DataError(f"its {kind} cannot be read ({error})") from error


def _shard(path: Path) -> FileShard:
    """Return the list of a tar file, from the cache where the file has not changed since."""
    from huggingface_hub.constants import HF_HOME

    facts = path.stat()
    name = hashlib.sha256(f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:32]
    cached = Path(HF_HOME) / "mllm_embed" / "tar" / f"{name}.npz"
    with suppress(OSError, ValueError, KeyError), np.load(cached, allow_pickle=False) as arrays:
        return FileShard(*(arrays[field] for field in FileShard._fields))
    shard = _listed(path)
    with suppress(DataError), atomic_file(cached) as temporary, temporary.open("wb") as file:
        np.savez(file, **shard._asdict())
    return shard


def _listed(path: Path) -> FileShard:
    members = list(_members(path))
    if not members:
        raise DataError(f"{path} holds no files; fetch it again")
    keys, endings, offsets, sizes = zip(*members, strict=True)
    samples = [(key, len(list(group))) for key, group in groupby(keys)]
    names, kinds = np.unique(endings, return_inverse=True)
    return FileShard(
        firsts=np.array([0, *accumulate(count for _, count in samples)], dtype=np.int32),
        keys=np.array([key.encode("utf-8", "surrogateescape") for key, _ in samples]),
        endings=names,
        kinds=kinds.astype(np.int16),
        offsets=np.array(offsets, dtype=np.int64),
        sizes=np.array(sizes, dtype=np.int64),
    )


def _members(path: Path) -> Iterator[tuple[str, str, int, int]]:
    """Yield key, ending, first byte and size of each file.

    A key ends at the first dot of the name, as in webdataset.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                # tarfile would keep them all, in an attribute that its stubs leave out
                tar.members = []  # type: ignore[attr-defined]
                folder, _, name = member.name.rpartition("/")
                stem, dot, kind = name.partition(".")
                if member.isfile() and stem and dot:
                    yield f"{folder}/{stem}" if folder else stem, kind.lower(), member.offset_data, member.size
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} is not a whole, uncompressed tar file ({error}); fetch or unpack it again") from error
