"""Records of data files by number, none of them held in memory: JSON, CSV, TSV, parquet, tar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from .parquet import ParquetTable
from .table import PICTURE, ArrowTable, Record, Table, csv_table, json_table, tsv_table
from .tar import KEY, TarTable

TABLES: dict[str, Callable[..., Table]] = {
    ".json": json_table,
    ".jsonl": json_table,
    ".csv": csv_table,
    ".tsv": tsv_table,
    ".txt": tsv_table,
    ".parquet": ArrowTable,
    ".tar": TarTable,
}
UNTYPED = (".csv", ".tsv", ".txt")
"""Kinds of tables whose cells are all texts."""
_STREAMED: dict[str, Callable[..., Table]] = TABLES | {".parquet": ParquetTable}


def kind_of(path: Path) -> str:
    """Return the ending of a file's name by which it is read, in small letters: .jsonl for rows.JSONL."""
    return path.suffix.lower()


def open_table(files: Sequence[Path], header: tuple[str, ...] | None = None, streaming: bool = True) -> Table:
    """Return the records of files of one kind, one of TABLES.

    Args:
        files: one at least.
        header: the columns' names, of tables of text that do not name them.
        streaming: read parquet as it lies, a row group at a time; without it, it is converted once.

    Raises DataError for files that are not what their names say.
    """
    return (_STREAMED if streaming else TABLES)[kind_of(files[0])](files, header)


__all__ = [
    "KEY", "PICTURE", "TABLES", "UNTYPED", "ParquetTable", "Record", "Table", "TarTable", "json_table", "kind_of",
    "open_table",
]  # fmt: skip
