"""Rows of files of rows, each with an id and what to embed: pictures by path or in memory, texts, instructions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import DataError, did_you_mean, kind_of
from ..text import half_character, printable
from ..types import Document, ImageLike, Item, Query
from .kept import Values, table_columns, table_values
from .picture_source import SUFFIXES
from .tables import KEY, Record, Table, TarTable, open_table
from .tables.fingerprint import OpenedFiles, files_fingerprint
from .values import absent, check_picture_name, id_text, words_of

EMBEDDED = ("image", "text", "instruction")
FIELDS = ("id", *EMBEDDED, "avoid")
"""The columns that a row of a table may have."""
_WORDS = ("text", "instruction", "avoid")
_SUSPICIOUS = 0.85  # likeness of a misspelt name


class TableSource:
    """Rows of tables: pictures by path, relative to the file that names them, or inside it."""

    def __init__(self, path: Path, files: Sequence[Path], fields: Mapping[str, str], notes: Iterable[str] = ()):
        """Open tables of one kind.

        Args:
            path: as given, of a file, a folder or a pattern.
            files: the tables.
            fields: the columns to read, some of FIELDS by their names in the files.
            notes: what a user should know of the source, a sentence each.

        Raises DataError for files without rows.
        """
        self.path, self.fields = path, dict(fields)
        self._opened = OpenedFiles(files)
        self.table: Table = open_table(files)
        self._notes = [*notes, *_passed_over(path, self.table)]
        if not len(self.table):
            raise DataError(f"{path} has no rows")

    @cached_property
    def _named(self) -> tuple[list[str], dict[int, str], set[str], int | None]:
        """The id of each row, why some rows cannot be read, which of the columns there are, and the first row that
        avoids something."""
        ids: list[str] = []
        avoiding: int | None = None
        faults: dict[int, str] = {}
        lacking = set(self.fields.values())
        shown = {column for name, column in self.fields.items() if name != "image"}
        for row, record in enumerate(self.table.scan(set(self.fields.values()), shown)):
            if isinstance(record, DataError):
                raise DataError(f"{self.where(row)}: {record}")
            if lacking:
                lacking.difference_update(record, ("image",) if self._is_sample(record) else ())
            values = self._values(record)
            avoiding = row if avoiding is None and values["avoid"] is not None else avoiding
            try:
                self._check_filled(values, record)
                name = self._id(values, record)
            except DataError as error:
                raise DataError(f"{self.where(row)} {error}") from error
            ids.append(printable(name))
            try:
                self._check(values, record)
            except DataError as error:
                faults[row] = str(error)
        return ids, faults, set(self.fields.values()) - lacking, avoiding

    @property
    def ids(self) -> list[str]:
        """The id of each row.

        Raises DataError for rows without an id, rows without anything to embed, samples of a tar shard with several
        pictures, and rows that are not as their file type demands.
        """
        return self._named[0]

    @property
    def faults(self) -> dict[int, str]:
        """As `Source.faults`: words that are no text, names that are no Unicode, URLs."""
        return self._named[1]

    @property
    def avoiding(self) -> int | None:
        """As `Source.avoiding`."""
        return self._named[3]

    @property
    def columns(self) -> set[str]:
        """Those of the columns to read that some row has."""
        return self._named[2]

    @property
    def notes(self) -> list[str]:
        """As `Source.notes`: what is passed over, and columns that look like ones that no row has."""
        notes = list(self._notes)
        there = [column for column in self.table.columns() if column not in self.fields.values()]
        for name, column in self.fields.items():
            near = [] if column in self.columns else [other for other in there if _alike(column, other)]
            if near:
                notes.append(
                    f'{printable(str(self.path))}: no row has "{column}", but there is "{printable(near[0])}", which '
                    f"is not read; name it with --fields {name}={printable(near[0])}"
                )
        return notes

    def read(self, row: int) -> tuple[Item, str | None]:
        """As `Source.read`; a picture in memory lies at FILE#ROW/COLUMN."""
        try:
            record = self.table.record(row, self.fields.values())
            values = self._values(record)
            self._check(values, record)
            if all(values[name] is None for name in EMBEDDED):  # a picture's object without either, say
                raise DataError(f"it {self._nothing(record)}")
            picture = None if values["image"] is None else self._picture(row, values["image"])
            words = {name: words_of(values[name]) for name in _WORDS if values[name] is not None}
            of_queries = {"instruction", "avoid"} & words.keys()
            item: Item = Query(picture, **words) if of_queries else Document(picture, **words)
        except DataError as error:
            raise DataError(f"{self.where(row)}: {error}") from error
        if picture is None:
            return item, None
        return item, os.path.abspath(picture) if isinstance(picture, Path) else self._inside(row)

    def kept(self, names: Sequence[str]) -> Values:
        """As `Source.kept`. Raises DataError where a file was changed since it was opened."""
        found = table_values(self.table, names, self.where)
        self.check_kept()  # else these may be the values of other rows
        return found

    def check_kept(self) -> None:
        """As `Source.check_kept`."""
        for path in self.table.files:
            self._opened.check(path)

    def keepable(self) -> list[str]:
        """As `Source.keepable`."""
        return table_columns(self.table)

    def check_unchanged(self, rows: Iterable[int]) -> None:
        """As `Source.check_unchanged`."""
        for file in {self.table.place(row)[0] for row in rows}:
            self._opened.check(self.table.files[file])

    def where(self, row: int) -> str:
        """Return the file and the number of the row in it, from 1."""
        file, number = self.table.place(row)
        return f"{printable(str(self.table.files[file]))}: row {number + 1}"

    def files_fingerprint(self) -> str:
        """Return the sha256 over name, size and both ends of each file."""
        return files_fingerprint(self.table.files)

    def _values(self, record: Record) -> dict[str, Any]:
        """Return a value for each of FIELDS, None where there is none."""
        values: dict[str, Any] = dict.fromkeys(FIELDS)
        for name, column in self.fields.items():
            value = record.get(column)
            if not absent(value):
                values[name] = value
        image = values["image"]
        if isinstance(image, Mapping):  # as `datasets` writes pictures
            values["image"] = image.get("bytes") or _filled(image.get("path"))
        elif image is None and self._is_sample(record):
            values["image"] = next((record[kind] for kind in _pictures(record)), None)
        return values

    def _is_sample(self, record: Record) -> bool:
        """Return whether a record is a tar shard's sample of which the picture is taken, whatever its ending."""
        return KEY in record and self.fields.get("image") == "image"

    def _check_filled(self, values: Mapping[str, Any], record: Record) -> None:
        """Raise DataError for a record with nothing to embed, and for a sample with more than one picture."""
        if all(values[name] is None for name in EMBEDDED):
            raise DataError(self._nothing(record))
        kinds = _pictures(record) if self._is_sample(record) else []
        if len(kinds) > 1:
            raise DataError(
                f'is the sample "{printable(record[KEY])}" with {len(kinds)} pictures, {", ".join(kinds)}: a key ends '
                f"at the first dot of a name; say which with --fields image={kinds[0]}, or rename the files"
            )

    def _nothing(self, record: Record) -> str:
        """Return what is wrong with a record that has nothing to embed: its columns are empty, or none of them."""
        columns = [self.fields[name] for name in EMBEDDED if name in self.fields]
        there = [column for column in columns if column in record]
        if there:
            listed = ", ".join(f'"{column}"' for column in there)
            return f"holds nothing to embed: {listed} {'are' if len(there) > 1 else 'is'} empty; fill or remove the row"
        near = next(filter(None, (did_you_mean(column, record) for column in columns)), "")
        listed = " nor ".join(f'"{column}"' for column in columns)
        return f"has {'neither' if len(columns) > 1 else 'no'} {listed}; name its columns with --fields{near}"

    def _id(self, values: Mapping[str, Any], record: Record) -> str:
        """Return the id of a record; a sample's key and a picture's path name it as well as an id does."""
        for value in (values["id"], record.get(KEY), _path_in(values["image"])):
            if not absent(value):
                try:
                    return id_text(value)
                except DataError as error:
                    raise DataError(f'has no id, since its "{self.fields["id"]}" {error}') from error
        column = self.fields["id"]
        if column in record:
            raise DataError(f'has no id, since its "{column}" is empty; give it one, or leave the row out')
        raise DataError(f'has no "{column}"; name the column with --fields id=...{did_you_mean(column, record)}')

    def _check(self, values: Mapping[str, Any], record: Record) -> None:
        """Raise DataError for a record that has a name and something to embed, which yet cannot be read."""
        for name in (values["id"], record.get(KEY)):
            if isinstance(name, str) and half_character(name):
                raise DataError(f'its id "{printable(name)}" is no Unicode; write it in UTF-8')
        for field in _WORDS:
            if values[field] is not None:
                try:
                    words_of(values[field])
                except DataError as error:
                    raise DataError(f'its "{self.fields[field]}" {error}') from error
        if isinstance(values["image"], str):
            check_picture_name(values["image"])

    def _picture(self, row: int, image: Any) -> ImageLike:
        if isinstance(image, str):
            return self.table.files[self.table.place(row)[0]].parent / image
        if isinstance(image, bytes):
            return image
        raise DataError(f'"{self.fields["image"]}" is {kind_of(image)}, not a path or the bytes of a picture')

    def _inside(self, row: int) -> str:
        file, number = self.table.place(row)
        return f"{os.path.abspath(self.table.files[file])}#{number}/{self.fields['image']}"


def _alike(column: str, other: str) -> bool:
    """Return whether the name of a column is probably another, misspelt."""
    one, two = column.casefold(), other.strip().casefold()
    return one == two or SequenceMatcher(None, one, two).ratio() >= _SUSPICIOUS


def _passed_over(path: Path, table: Table) -> list[str]:
    """Return in a sentence which members of tar shards are part of no sample; none for none, and other tables."""
    if not isinstance(table, TarTable) or not table.passed:
        return []
    counts = [f"{len(names):,} {what} (the first {printable(names[0])})" for what, names in table.passed.items()]
    return [f"{printable(str(path))}: passed over {', '.join(counts)}, which are no part of a sample"]


def _pictures(record: Record) -> list[str]:
    """Return the members of a tar shard's sample that are pictures by their endings."""
    return [kind for kind in record if f".{kind.split('.')[-1]}" in SUFFIXES]


def _path_in(image: Any) -> str | None:
    """Return a picture's path, which names it where nothing else does."""
    return image if isinstance(image, str) else None


def _filled(value: Any) -> Any:
    return None if absent(value) else value
