"""A store as a Lance dataset."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
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
    stopped = Event()
    with atomic_folder(path) as aside:
        batches = _noting(rows.batches(), failed, stopped)
        reader = pyarrow.RecordBatchReader.from_batches(rows.schema, batches)
        try:
            with ThreadPoolExecutor(1) as pool:
                # in a thread that Ctrl-C does not end: Lance reads on in threads of its own where it is interrupted,
                # and one that reads when Python ends takes the process with it
                pool.submit(int).result()  # it is there: one that is interrupted while it starts is not waited for
                writing = pool.submit(lance.write_dataset, reader, str(aside), schema=rows.schema)
                try:
                    writing.result()
                finally:
                    stopped.set()
        except OSError as error:
            if failed:
                raise failed[0] from error
            raise


def _noting(batches: Iterator[Any], failed: list[DataError], stopped: Event) -> Iterator[Any]:
    """Yield batches until they are not wanted any more.

    Why there is none is noted in `failed`: on its way through Lance an error becomes another.
    """
    try:
        for batch in batches:
            if stopped.is_set():
                raise InterruptedError
            yield batch
    except DataError as error:
        failed.append(error)
        raise
