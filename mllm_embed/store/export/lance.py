"""A store as a Lance dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataError
from ...files import atomic_folder
from .rows import LivingRows


def write_lance(rows: LivingRows, path: Path) -> None:
    """Write a dataset. Raises ConfigError where Lance is not installed, and DataError where the disk fails."""
    try:
        import lance
    except ImportError as error:
        raise ConfigError('an export to lance needs Lance: pip install "mllm_embed[lance]"') from error
    import pyarrow

    dotted = next((name for name in rows.schema.names if "." in name), None)
    if dotted is not None:
        raise ConfigError(f'Lance has no columns with a dot in their name, as "{dotted}": export to parquet')
    failed: list[DataError] = []
    with atomic_folder(path) as aside:
        reader = pyarrow.RecordBatchReader.from_batches(rows.schema, _noting(rows.batches(), failed))
        try:
            lance.write_dataset(reader, str(aside), schema=rows.schema)
        except OSError as error:
            if failed:
                raise failed[0] from error
            raise


def _noting(batches: Iterator[Any], failed: list[DataError]) -> Iterator[Any]:
    """Yield batches, and note why there is none: on its way through Lance an error becomes another."""
    try:
        yield from batches
    except DataError as error:
        failed.append(error)
        raise
