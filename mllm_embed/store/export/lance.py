"""A store as a Lance dataset."""

from __future__ import annotations

from pathlib import Path

from ...errors import ConfigError
from ...files import atomic_folder
from .rows import LivingRows


def write_lance(rows: LivingRows, path: Path) -> None:
    """Write a dataset. Raises ConfigError where Lance is not installed, and DataError where the disk fails."""
    try:
        import lance
    except ImportError as error:
        raise ConfigError('an export to lance needs Lance: pip install "mllm_embed[lance]"') from error
    import pyarrow

    with atomic_folder(path) as aside:
        reader = pyarrow.RecordBatchReader.from_batches(rows.schema, rows.batches())
        lance.write_dataset(reader, str(aside), schema=rows.schema)
