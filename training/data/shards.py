"""Shards that hold pictures too: parquet by row groups, tar files by samples, both by number."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mllm_embed.errors import DataError
from mllm_embed.files import atomic_file

from .tables import PICTURE, Record, each, holds_pictures, parquet_metadata

KEPT = 64
_WORDS = ("txt", "text", "caption", "cls")
_SAMPLES = 256


class ParquetTable:
    """Rows of parquet files as they lie there: a row group is read at once, and the last `keep` groups are kept."""

    def __init__(self, files: Sequence[Path], header: tuple[str, ...] | None = None, keep: int = 8):
        self.files, self.keep = files, keep
        self._groups: list[tuple[int, int]] = []
        sizes = []
        for number, path in enumerate(files):
            metadata = parquet_metadata(path)
            for group in range(metadata.num_row_groups):
                self._groups.append((number, group))
                sizes.append(metadata.row_group(group).num_rows)
        self._starts = [0, *accumulate(sizes)]
        self._firsts = {
            file: min(s for s, (f, _) in zip(self._starts, self._groups, strict=False) if f == file)
            for file in {file for file, _ in self._groups}
        }
        self._held: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": OrderedDict()}

    def place(self, index: int) -> tuple[int, int]:
        file, _ = self._groups[self._block(index)]
        return file, index - self._firsts[file]

    def record(self, index: int) -> Record:
        block = self._block(index)
        rows = self._read(block)
        return rows.slice(index - self._starts[block], 1).to_pylist()[0]

    def scan(self, columns: Collection[str]) -> Iterator[Record | DataError]:
        for block, (file, _) in enumerate(self._groups):
            schema = self._schema(file)
            wanted = [name for name in schema.names if name in columns]
            pictures = {name: PICTURE for name in wanted if holds_pictures(schema.field(name))}
            rows = self._load(block, [name for name in wanted if name not in pictures]).to_pylist()
            yield from (row | pictures for row in rows)

    def blocks(self) -> np.ndarray:
        return np.array(self._starts[:-1], dtype=np.int64)

    def _block(self, index: int) -> int:
        return bisect_right(self._starts, index) - 1

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


class Shard(NamedTuple):
    """One tar file: [S + 1] first members of samples, [S] keys, and of the members what they are and where."""

    firsts: np.ndarray
    keys: np.ndarray
    kinds: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray


class TarTable:
    """Samples of tar files, `key.jpg` beside `key.json` or `key.txt`, read from where they lie.

    A record has `__key__` and an entry for each ending: an object for json, a text for txt, bytes for others. The
    members of each file are listed once, and the list is kept in the Hugging Face cache.
    """

    def __init__(self, files: Sequence[Path], header: tuple[str, ...] | None = None):
        from tqdm import tqdm

        self.files = files
        bar = tqdm(files, desc="listing tar files", unit="file", leave=False, disable=len(files) < 8)
        self._shards = [_shard(path) for path in bar]
        self._starts = [0, *accumulate(len(shard.keys) for shard in self._shards)]
        self._open: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def place(self, index: int) -> tuple[int, int]:
        file = bisect_right(self._starts, index) - 1
        return file, index - self._starts[file]

    def record(self, index: int) -> Record:
        file, row = self.place(index)
        shard = self._shards[file]
        members = range(shard.firsts[row], shard.firsts[row + 1])
        start = int(shard.offsets[members[0]])
        stop = max(int(shard.offsets[at] + shard.sizes[at]) for at in members)
        try:
            data = os.pread(self._file(file), stop - start, start)  # no shared position: forks may read at once
        except OSError as error:
            raise DataError(f"it cannot be read: {error.strerror}") from error
        record: Record = {"__key__": str(shard.keys[row])}
        for at in members:
            first = int(shard.offsets[at]) - start
            kind = str(shard.kinds[at])
            record[kind] = _content(kind, data[first : first + int(shard.sizes[at])])
        return record

    def scan(self, columns: Collection[str]) -> Iterator[Record | DataError]:
        return each(self._words, len(self))

    def _words(self, index: int) -> Record:
        """The record with its pictures unread."""
        file, row = self.place(index)
        shard = self._shards[file]
        record: Record = {"__key__": str(shard.keys[row])}
        for at in range(shard.firsts[row], shard.firsts[row + 1]):
            kind = str(shard.kinds[at])
            told = kind.split(".")[-1] in (*_WORDS, "json")
            data = os.pread(self._file(file), int(shard.sizes[at]), int(shard.offsets[at])) if told else PICTURE
            record[kind] = _content(kind, data)
        return record

    def blocks(self) -> np.ndarray:
        runs = zip(self._starts, self._starts[1:], strict=False)
        return np.concatenate([np.arange(first, last, _SAMPLES) for first, last in runs])

    def _file(self, number: int) -> int:
        if number not in self._open:
            self._open[number] = os.open(self.files[number], os.O_RDONLY)
            if len(self._open) > KEPT:
                os.close(self._open.popitem(last=False)[1])
        return self._open[number]


def _content(kind: str, data: bytes) -> Any:
    try:
        if kind.split(".")[-1] == "json":
            return json.loads(data)
        return data.decode("utf-8") if kind.split(".")[-1] in _WORDS else data
    except ValueError as error:
        raise DataError(f"its {kind} cannot be read ({error})") from error


def _shard(path: Path) -> Shard:
    """The list of a tar file, from the cache where the file has not changed since."""
    from huggingface_hub.constants import HF_HOME

    facts = path.stat()
    name = hashlib.sha256(f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:32]
    kept = Path(HF_HOME) / "mllm_embed" / "tar" / f"{name}.npz"
    with suppress(OSError, ValueError, KeyError), np.load(kept, allow_pickle=False) as arrays:
        return Shard(*(arrays[field] for field in Shard._fields))
    shard = _listed(path)
    with suppress(DataError), atomic_file(kept) as temporary, temporary.open("wb") as file:
        np.savez(file, **shard._asdict())
    return shard


def _listed(path: Path) -> Shard:
    members = list(_members(path))
    samples = [(key, len(list(group))) for key, group in groupby(members, key=lambda member: member[0])]
    if not samples:
        raise DataError(f"{path} holds no files; fetch it again")
    return Shard(
        np.array([0, *accumulate(count for _, count in samples)]),
        np.array([key for key, _ in samples]),
        np.array([kind for _, kind, _, _ in members]),
        np.array([offset for _, _, offset, _ in members], dtype=np.int64),
        np.array([size for _, _, _, size in members], dtype=np.int64),
    )


def _members(path: Path) -> Iterator[tuple[str, str, int, int]]:
    """Key, ending, first byte and size of each file: the key goes to the first dot of the name, as in webdataset."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # tarfile would keep them all
                folder, _, name = member.name.rpartition("/")
                stem, dot, kind = name.partition(".")
                if member.isfile() and stem and dot:
                    yield f"{folder}/{stem}" if folder else stem, kind.lower(), member.offset_data, member.size
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} is not a whole, uncompressed tar file ({error}); fetch or unpack it again") from error
