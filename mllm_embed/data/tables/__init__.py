"""Records of data files by number, none of them held in memory: JSON, CSV, TSV, parquet, tar."""

from __future__ import annotations

from collections.abc import Callable

from .shards import KEY, ParquetTable, TarTable
from .table import PICTURE, ArrowTable, Record, Table, csv_table, json_table, tsv_table

TABLES: dict[str, Callable[..., Table]] = {
    ".json": json_table,
    ".jsonl": json_table,
    ".csv": csv_table,
    ".tsv": tsv_table,
    ".txt": tsv_table,
    ".parquet": ArrowTable,
    ".tar": TarTable,
}
STREAMED: dict[str, Callable[..., Table]] = TABLES | {".parquet": ParquetTable}

__all__ = ["KEY", "PICTURE", "STREAMED", "TABLES", "ParquetTable", "Record", "Table", "json_table"]
