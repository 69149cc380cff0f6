"""A store as one parquet file."""

from __future__ import annotations

from pathlib import Path

from ...files import atomic_file
from .rows import LivingRows


def write_parquet(rows: LivingRows, path: Path) -> None:
    """Write a file whose row groups are the blocks. Raises DataError where the disk fails."""
    import pyarrow.parquet

    # dictionaries of what are all different numbers cost time, and save nothing
    words = [field.name for field in rows.schema if field.name not in ("id", "vector")]
    with (
        atomic_file(path) as aside,
        pyarrow.parquet.ParquetWriter(aside, rows.schema, compression="zstd", use_dictionary=words) as writer,
    ):
        for batch in rows.batches():
            writer.write_batch(batch, row_group_size=batch.num_rows)
