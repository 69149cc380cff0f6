"""A store as the files of numpy: vectors.npy, with ids.json, columns.parquet and provenance.json beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...files import atomic_folder, write_json
from .rows import PROVENANCE, LivingRows

VECTORS, IDS, COLUMNS, ABOUT = "vectors.npy", "ids.json", "columns.parquet", "provenance.json"


def write_npy(rows: LivingRows, path: Path) -> None:
    """Write a folder. Raises DataError where the disk fails.

    Vectors are [N, D] float32, ids a list of N strings; columns.parquet has id, source and the kept columns.
    """
    with atomic_folder(path) as aside:
        with (aside / VECTORS).open("wb") as file:
            shape = (len(rows), rows.store.dimension)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for _, vectors in rows.blocks():
                file.write(np.ascontiguousarray(vectors, "<f4").data)
        write_json(aside / IDS, rows.ids)
        _write_columns(rows, aside / COLUMNS)
        write_json(aside / ABOUT, rows.about())


def _write_columns(rows: LivingRows, path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    sources = pyarrow.array([rows.store.sources[row] for row in rows.numbers.tolist()], pyarrow.string())
    table = pyarrow.table([pyarrow.array(rows.ids, pyarrow.string()), sources], names=["id", "source"])
    for name, column in zip(rows.kept.column_names, rows.kept.columns, strict=True):
        table = table.append_column(name, column)
    metadata = {PROVENANCE: rows.schema.metadata[PROVENANCE.encode()]}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")
