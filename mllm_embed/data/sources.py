"""Sources that `mllm-embed encode` reads row by row: folders of pictures, JSON and CSV rows, parquet, tar shards."""

from __future__ import annotations

import glob
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain, groupby
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConfigError, DataError, did_you_mean
from ..text import printable
from ..types import ImageLike, Item
from .folder import BENCHMARK
from .kept import Values, check_names, check_there
from .picture_source import SUFFIXES, FolderFiles, PictureSource, is_named_picture, picture_folder, pictures_in
from .table_source import EMBEDDED, FIELDS, TableSource
from .tables import TABLES, kind_of
from .values import is_url

_INSIDE = re.compile(r"(.+)#(\d+)/(.+)", re.DOTALL)  # file of rows, number of the row, its column with the picture
_PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")
_IN_FOLDERS = (".parquet", ".tar", ".jsonl")  # files of rows that a folder may be given for


class Source(Protocol):
    """Rows that can be embedded, by number; opening one reads no picture."""

    @property
    def path(self) -> Path:
        """The folder, file or pattern as given."""
        ...

    @property
    def ids(self) -> Sequence[str]:
        """The id of each row."""
        ...

    @property
    def faults(self) -> Mapping[int, str]:
        """Why some rows cannot be read, as far as their names and words show it: `read` raises it."""
        ...

    @property
    def avoiding(self) -> int | None:
        """The first row that avoids something, None where none does."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know of the source, a sentence each: what in it is passed over."""
        ...

    def read(self, row: int) -> tuple[Item, str | None]:
        """Return what to embed, and where its picture lies as `picture_at` reads it, None for words alone.

        Raises DataError for a row that cannot be read.
        """
        ...

    def kept(self, names: Sequence[str]) -> Values | None:
        """Return the values of all rows, None for none, of those of these columns that some row has.

        Returns None for a source that cannot have any, as a folder of pictures.
        """
        ...

    def check_kept(self) -> None:
        """Raise DataError where what `kept` reads was written to since the source was opened."""
        ...

    def keepable(self) -> Sequence[str]:
        """Return the columns of its first rows that could be kept, for a message."""
        ...

    def check_unchanged(self, rows: Iterable[int]) -> None:
        """Raise DataError where the rows lie in a file that was written to since it was opened.

        What was read of it may then be another row's.
        """
        ...

    def where(self, row: int) -> str:
        """Return how a message names the row."""
        ...

    def files_fingerprint(self) -> str:
        """Return a sha256 that changes with the source; cheap for any size."""
        ...


class Listing:
    """All rows of several sources, in their order."""

    def __init__(self, sources: Sequence[Source]):
        """List the rows.

        Raises DataError for an id given twice, for what a source finds wrong with its rows, and where no row at all
        can be read.
        """
        self.sources = sources
        self.ids = [name for source in sources for name in source.ids]
        self._kept: dict[tuple[str, ...], list[Values | None]] = {}
        self._starts = [0, *accumulate(len(source.ids) for source in sources)]
        seen: dict[str, int] = {}
        for row, name in enumerate(self.ids):
            if name in seen:
                raise DataError(f'the id "{name}" is given twice, by {self.where(seen[name])} and {self.where(row)}')
            seen[name] = row
        self.faults = {
            start + row: reason
            for start, source in zip(self._starts, sources, strict=False)
            for row, reason in source.faults.items()
        }
        if len(self.faults) == len(self.ids):
            row, reason = next(iter(self.faults.items()))
            raise DataError(f"none of {len(self.ids):,} rows can be read, the first since {self.where(row)}: {reason}")

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, row: int) -> tuple[Item, str | None]:
        """As `Source.read`."""
        source, own = self._home(row)
        return self.sources[source].read(own)

    def kept(self, names: Sequence[str]) -> tuple[list[int], Values]:
        """Return the values of these columns, None where a row has none, and the numbers of the rows they are of.

        Rows of a source that cannot have columns, as a folder of pictures, are not among them: it says nothing of them.
        """
        rows: list[int] = []
        values: Values = {name: [] for name in names}
        for start, source, found in zip(self._starts, self.sources, self._found(tuple(names)), strict=False):
            if found is not None:
                rows += range(start, start + len(source.ids))
                for name, cells in values.items():
                    cells += found.get(name) or [None] * len(source.ids)
        return rows, values

    def check_kept(self) -> None:
        """As `Source.check_kept`, of all sources."""
        for source in self.sources:
            source.check_kept()

    def check_keep(self, names: Sequence[str]) -> None:
        """Raise ConfigError for columns that cannot be kept, or that no row has."""
        if not names:
            return
        check_names(names)
        values = [found for found in self._found(tuple(names)) if found is not None]
        known = [name for source in self.sources for name in source.keepable()] if values else None
        check_there(
            names, chain.from_iterable(values), known, printable(", ".join(str(source.path) for source in self.sources))
        )

    def check_unchanged(self, rows: Iterable[int]) -> None:
        """As `Source.check_unchanged`."""
        for source, homes in groupby(map(self._home, rows), key=lambda home: home[0]):
            self.sources[source].check_unchanged(own for _, own in homes)

    def where(self, row: int) -> str:
        """As `Source.where`."""
        source, own = self._home(row)
        return self.sources[source].where(own)

    def notes(self) -> list[str]:
        """Return what a user should know before the work starts, a sentence each."""
        notes = [note for source in self.sources for note in source.notes]
        if self.faults:
            row, reason = next(iter(self.faults.items()))
            notes.append(f"{len(self.faults):,} rows cannot be read, the first {self.where(row)}: {reason}")
        return notes

    def avoiding(self) -> str | None:
        """Return how a message names the first row that avoids something, None where none does."""
        found = (source.where(source.avoiding) for source in self.sources if source.avoiding is not None)
        return next(found, None)

    def facts(self) -> list[dict[str, Any]]:
        """Return path, rows and fingerprint of each source, as a record of what was embedded."""
        return [
            {"path": str(source.path), "rows": len(source.ids), "fingerprint": source.files_fingerprint()}
            for source in self.sources
        ]

    def _found(self, names: tuple[str, ...]) -> list[Values | None]:
        """Return what each source has of these columns, None for one that cannot have any."""
        if names not in self._kept:
            self._kept = {names: [source.kept(names) for source in self.sources]}
        return self._kept[names]

    def _home(self, row: int) -> tuple[int, int]:
        source = bisect_right(self._starts, row) - 1
        return source, row - self._starts[source]


def open_sources(paths: Sequence[str | os.PathLike[str]], fields: Mapping[str, str] | None = None) -> Listing:
    """List what there is to embed; no picture is read.

    Args:
        paths: folders of pictures or of files of rows, such files (JSON, JSON lines, CSV, TSV, parquet, tar shards as
            of webdataset), pictures, and patterns that match several of a kind.
        fields: which of FIELDS to read, and the columns that hold them; by default all, by their own names. Of a tar
            shard "image" is the first member that is a picture, and the id its key.

    Raises DataError for a path that leads to nothing, rows without an id or anything to embed, and an id given twice;
    ConfigError for a field that there is not.
    """
    wanted = dict(zip(FIELDS, FIELDS, strict=True)) if fields is None else {"id": "id"} | dict(fields)
    for name in wanted:
        if name not in FIELDS:
            raise ConfigError(f"--fields: there is no '{name}'; a row has {', '.join(FIELDS)}")
    if not set(wanted) & set(EMBEDDED):
        raise ConfigError(f"--fields names nothing to embed; name some of {', '.join(EMBEDDED)}")
    sources = [_source(path, wanted) for path in paths]
    if fields is not None:
        _check_used(fields, sources)
    return Listing(sources)


def _check_used(fields: Mapping[str, str], sources: Sequence[Source]) -> None:
    """Raise ConfigError for fields that say nothing of any source."""
    tables = [source for source in sources if isinstance(source, TableSource)]
    if not tables:
        raise ConfigError(f"--fields names columns of files of rows, and {sources[0].path} is none: leave it out")
    there = {column for table in tables for column in table.columns}
    for name, column in fields.items():
        if column not in there:
            raise ConfigError(
                f"--fields {name}={column}: no row of {tables[0].path} has a column '{column}'"
                f"{did_you_mean(column, there)}"
            )


def picture_at(place: str) -> ImageLike:
    """Return the picture at a place that `Source.read` gave: a file, or bytes inside a file of rows.

    Raises DataError where that file is not there any more.
    """
    inside = _INSIDE.fullmatch(place)
    if inside is None or kind_of(Path(inside[1])) not in TABLES:
        return Path(place)
    path = Path(inside[1])
    if not path.is_file():
        raise DataError(f"{path} is gone, which held the picture {place}: put it back")
    return TableSource(path, [path], {"image": inside[3]}).read(int(inside[2]))[0].images[0]


def gallery_of(path: str | os.PathLike[str]) -> dict[str, Path]:
    """Return id and file of every picture of a folder's benchmark.json, or else of the folder and below, by name.

    Raises:
        DataError: the folder is missing, faulty, or holds no picture.
    """
    source = picture_folder(path)
    return dict(zip(source.ids, source.files, strict=True))


def _source(given: str | os.PathLike[str], fields: Mapping[str, str]) -> Source:
    if is_url(os.fspath(given)):
        raise DataError(f"{os.fspath(given)[:200]} is a URL, and nothing is downloaded: fetch it and give a local path")
    path = Path(given)
    if path.is_dir():
        return _in_folder(path, fields)
    files = _matching(path)
    if all(map(is_named_picture, files)):
        return PictureSource(path, {os.fspath(file): file for file in files})
    kinds = sorted({kind_of(file) for file in files})
    if len(kinds) > 1 or kinds[0] not in TABLES:
        known = ", ".join((*SUFFIXES, *TABLES))
        found = ", ".join(kind or "no ending" for kind in kinds)
        cure = "; unpack it first" if kinds[0] in _PACKED else ""
        raise DataError(f"{path} leads to files of {found}; give files of one of {known}{cure}")
    return TableSource(path, files, fields)


def _matching(path: Path) -> list[Path]:
    """Return the file at a path, or those that match it as a pattern. Raises DataError where there is none."""
    files = [path] if path.is_file() else sorted(map(Path, glob.glob(os.fspath(path), recursive=True)))
    if not files:
        raise DataError(f"{path} does not exist, and matches no file; nothing is downloaded, so give a local path")
    folder = next((file for file in files if file.is_dir()), None)
    if folder is not None:
        raise DataError(f"{path} matches the folder {folder}; give that alone, or a pattern of files")
    return files


def _in_folder(path: Path, fields: Mapping[str, str]) -> Source:
    """Return the source of a folder of pictures, or, where it holds none, of files of rows."""
    if (path / BENCHMARK).is_file():
        return picture_folder(path)
    files = FolderFiles.of(path)
    if files.pictures:
        return pictures_in(path, files)
    tables = [file for file in files.others if file.parent == path and kind_of(file) in TABLES]
    kinds = sorted({kind_of(file) for file in tables}.intersection(_IN_FOLDERS))
    if len(kinds) > 1:
        raise DataError(f"{path} holds files of {' and '.join(kinds)}; give those of one kind, as {path}/*{kinds[0]}")
    if kinds:
        used = [file for file in tables if kind_of(file) == kinds[0]]
        return TableSource(path, used, fields, files.passed_over(path, used))
    if tables:
        raise DataError(f"{path} holds no pictures; give its files of rows by a pattern, as {path}/*{tables[0].suffix}")
    return pictures_in(path, files)
