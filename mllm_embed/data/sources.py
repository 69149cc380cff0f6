"""Sources that `mllm-embed encode` reads row by row: folders of pictures, JSON and CSV rows, parquet, tar shards."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConfigError, DataError, did_you_mean
from ..types import Document, ImageLike, Item, Query
from .digest import item_digest
from .folder import BENCHMARK, open_benchmark
from .tables import KEY, STREAMED, Record, Table
from .tables.fingerprint import files_fingerprint

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
FIELDS = ("id", "image", "text", "instruction")
"""The columns that a row of a table may have."""
_EMBEDDED = FIELDS[1:]
_INSIDE = re.compile(r"(.+)#(\d+)/(.+)")  # file of rows, number of the row, its column with the picture


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

    def read(self, row: int) -> tuple[Item, str | None]:
        """Return what to embed, and where its picture lies as `picture_at` reads it, None for words alone.

        Raises DataError for a row that cannot be read.
        """
        ...

    def digest(self, row: int) -> str:
        """Return the sha256 of what the row holds, as `item_digest`: its words and its pictures' bytes.

        Raises DataError or ImageError for a row that cannot be read.
        """
        ...

    def where(self, row: int) -> str:
        """Return how a message names the row."""
        ...

    def files_fingerprint(self) -> str:
        """Return a sha256 that changes with the source; cheap for any size."""
        ...


class PictureSource:
    """Picture files by their ids, of a folder or a pattern."""

    def __init__(self, path: Path, gallery: Mapping[str, Path]):
        """Take the files by their ids; `path` is the folder or pattern that was given."""
        self.path, self.ids, self._files = path, list(gallery), list(gallery.values())

    def read(self, row: int) -> tuple[Item, str | None]:
        """Return a picture and its absolute path; it is not opened."""
        return Document(image=self._files[row]), os.path.abspath(self._files[row])

    def digest(self, row: int) -> str:
        """As `Source.digest`."""
        return item_digest(self.read(row)[0])

    def where(self, row: int) -> str:
        """Return the path of the file."""
        return str(self._files[row])

    def files_fingerprint(self) -> str:
        """Return the sha256 over ids and sizes of the files."""
        # sizes rather than contents, since a source may hold terabytes
        digest = hashlib.sha256()
        for name, file in zip(self.ids, self._files, strict=True):
            digest.update(f"{name} {file.stat().st_size if file.is_file() else 0}\n".encode())
        return digest.hexdigest()


class TableSource:
    """Rows of tables: pictures by path, relative to the file that names them, or inside it."""

    def __init__(self, path: Path, files: Sequence[Path], fields: Mapping[str, str]):
        """Open tables of one kind; `fields`: the columns to read, some of FIELDS by their names in the files.

        Raises DataError for files without rows.
        """
        self.path, self.fields = path, dict(fields)
        self.table: Table = STREAMED[files[0].suffix](files, None)
        if not len(self.table):
            raise DataError(f"{path} has no rows")

    @cached_property
    def ids(self) -> list[str]:
        """The id of each row. Raises DataError for rows without an id, and without anything to embed."""
        return list(self._names())

    def read(self, row: int) -> tuple[Item, str | None]:
        """As `Source.read`; a picture in memory lies at FILE#ROW/COLUMN."""
        try:
            values = self._values(self.table.record(row))
            picture = None if values["image"] is None else self._picture(row, values["image"])
            if values["instruction"] is None:
                item: Item = Document(picture, values["text"])
            else:
                item = Query(picture, values["instruction"], values["text"])
        except DataError as error:
            raise DataError(f"{self.where(row)}: {error}") from error
        if picture is None:
            return item, None
        return item, os.path.abspath(picture) if isinstance(picture, Path) else self._inside(row)

    def digest(self, row: int) -> str:
        """As `Source.digest`."""
        return item_digest(self.read(row)[0])

    def where(self, row: int) -> str:
        """Return the file and the number of the row in it, from 1."""
        file, number = self.table.place(row)
        return f"{self.table.files[file]}: row {number + 1}"

    def files_fingerprint(self) -> str:
        """Return the sha256 over name, size and both ends of each file."""
        return files_fingerprint(self.table.files)

    def _names(self) -> Iterator[str]:
        for row, record in enumerate(self.table.scan(set(self.fields.values()))):
            if isinstance(record, DataError):
                raise DataError(f"{self.where(row)}: {record}")
            values = self._values(record)
            if all(values[name] is None for name in _EMBEDDED):
                raise DataError(f"{self.where(row)} has neither {self._columns(record)}")
            # a sample's key and a picture's path name a row as well as an id does
            name = values["id"] or record.get(KEY) or _path_in(values["image"])
            if not name:
                raise DataError(f'{self.where(row)} has no "{self.fields["id"]}"; name the column with --fields id=...')
            yield str(name)

    def _columns(self, record: Record) -> str:
        """Return the end of a sentence about a record that has no column to embed."""
        columns = " nor ".join(f'"{self.fields[name]}"' for name in _EMBEDDED if name in self.fields)
        return f"{columns}; name its columns with --fields{did_you_mean(self.fields.get('image', ''), record)}"

    def _values(self, record: Record) -> dict[str, Any]:
        """Return a value for each of FIELDS; empty words, like null, are None."""
        values = {name: _filled(record.get(self.fields.get(name, ""))) for name in FIELDS}
        if values["image"] is None and KEY in record and self.fields.get("image") == "image":
            values["image"] = _sample_picture(record)
        return values

    def _picture(self, row: int, image: Any) -> ImageLike:
        if isinstance(image, Mapping):
            image = image.get("bytes") or image.get("path")
        if isinstance(image, str):
            return self.table.files[self.table.place(row)[0]].parent / image
        if isinstance(image, bytes):
            return image
        raise DataError(f'"{self.fields["image"]}" is a {type(image).__name__}, not a path or the bytes of a picture')

    def _inside(self, row: int) -> str:
        file, number = self.table.place(row)
        return f"{os.path.abspath(self.table.files[file])}#{number}/{self.fields['image']}"


class Listing:
    """All rows of several sources, in their order."""

    def __init__(self, sources: Sequence[Source]):
        """List the rows. Raises DataError for an id given twice, and for what a source finds wrong with its rows."""
        self.sources = sources
        self.ids = [name for source in sources for name in source.ids]
        self._starts = [0, *accumulate(len(source.ids) for source in sources)]
        seen: dict[str, int] = {}
        for row, name in enumerate(self.ids):
            if name in seen:
                raise DataError(f'the id "{name}" is given twice, by {self.where(seen[name])} and {self.where(row)}')
            seen[name] = row

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, row: int) -> tuple[Item, str | None]:
        """As `Source.read`."""
        source, own = self._home(row)
        return self.sources[source].read(own)

    def digest(self, row: int) -> str:
        """As `Source.digest`."""
        source, own = self._home(row)
        return self.sources[source].digest(own)

    def where(self, row: int) -> str:
        """As `Source.where`."""
        source, own = self._home(row)
        return self.sources[source].where(own)

    def facts(self) -> list[dict[str, Any]]:
        """Return path, rows and fingerprint of each source, as a record of what was embedded."""
        return [
            {"path": str(source.path), "rows": len(source.ids), "fingerprint": source.files_fingerprint()}
            for source in self.sources
        ]

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
    fields = dict(fields or dict(zip(FIELDS, FIELDS, strict=True)))
    for name in fields:
        if name not in FIELDS:
            raise ConfigError(f"--fields: there is no '{name}'; a row has {', '.join(FIELDS)}")
    if not set(fields) & set(_EMBEDDED):
        raise ConfigError(f"--fields names nothing to embed; name some of {', '.join(_EMBEDDED)}")
    return Listing([_source(Path(path), {"id": "id"} | fields) for path in paths])


def picture_at(place: str) -> ImageLike:
    """Return the picture at a place that `Source.read` gave: a file, or bytes inside a file of rows.

    Raises DataError where that file is not there any more.
    """
    inside = _INSIDE.fullmatch(place)
    if inside is None or Path(inside[1]).suffix not in STREAMED:
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
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root} is {'not a folder' if root.exists() else 'missing'}: give a folder of pictures")
    if (root / BENCHMARK).is_file():
        return {item.id: item.image for item in open_benchmark(root).gallery}
    files = sorted(filter(_is_picture, root.rglob("*")))
    if not files:
        raise DataError(f"empty folder {root}: no picture in it ends in {', '.join(SUFFIXES)}")
    return {file.relative_to(root).as_posix(): file for file in files}


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _source(path: Path, fields: Mapping[str, str]) -> Source:
    if path.is_dir():
        return _in_folder(path, fields)
    files = _matching(path)
    kinds = sorted({file.suffix.lower() for file in files})
    if set(kinds) <= set(SUFFIXES):
        return PictureSource(path, {os.fspath(file): file for file in files})
    if len(kinds) > 1 or kinds[0] not in STREAMED:
        known = ", ".join((*SUFFIXES, *STREAMED))
        raise DataError(f"{path} leads to files of {', '.join(kinds)}; give files of one of {known}")
    return TableSource(path, files, fields)


def _matching(path: Path) -> list[Path]:
    """Return the file at a path, or those that match it as a pattern. Raises DataError where there is none."""
    files = [path] if path.is_file() else sorted(map(Path, glob.glob(os.fspath(path), recursive=True)))
    if not files:
        raise DataError(f"{path} does not exist, and matches no file; nothing is downloaded, so give a local path")
    return files


def _in_folder(path: Path, fields: Mapping[str, str]) -> Source:
    """Return the source of a folder of pictures, or, where it holds none, of files of rows."""
    try:
        return PictureSource(path, gallery_of(path))
    except DataError:
        for kind in (".parquet", ".tar", ".jsonl"):
            files = sorted(path.glob(f"*{kind}"))
            if files and not (path / BENCHMARK).is_file():
                return TableSource(path, files, fields)
        raise


def _path_in(image: Any) -> str | None:
    """Return a picture's path, which names it where nothing else does."""
    image = image.get("path") if isinstance(image, Mapping) else image
    return image if isinstance(image, str) else None


def _sample_picture(record: Record) -> Any:
    """Return the first member of a tar shard's sample that is a picture, None where there is none."""
    return next((record[kind] for kind in record if f".{kind.split('.')[-1]}" in SUFFIXES), None)


def _filled(value: Any) -> Any:
    """Return a value, None for empty words."""
    return None if isinstance(value, str) and not value.strip() else value
