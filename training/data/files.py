"""From the path of a source to its files, and to the table of their records."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from mllm_embed.data.tables import STREAMED, TABLES, Table
from mllm_embed.errors import DataError

from .formats import Format
from .source import DataSource


def files_of(source: DataSource, format: Format) -> list[Path]:
    """The files, in the order of their names.

    Raises DataError for a path that leads to none, or to files of several types.
    """
    path = source.path
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = sorted(file for file in path.iterdir() if file.is_file() and file.suffix in format.suffixes)
        if not found:
            endings = ", ".join(format.suffixes)
            raise DataError(f"{path} holds no {endings} file; give the file, or a pattern such as {path}/*/*")
    else:
        found = sorted(Path(name) for name in glob.glob(os.fspath(path), recursive=True))
        found = [file for file in found if file.is_file()]
        if not found:
            raise DataError(f"{path} does not exist, and matches no file; nothing is downloaded, so give a local path")
    kinds = sorted({file.suffix for file in found})
    if len(kinds) > 1:
        raise DataError(
            f"{path} leads to files of several types ({', '.join(kinds)}); give a pattern such as *{kinds[0]}"
        )
    if kinds[0] not in TABLES:
        raise DataError(f"{found[0]} is of no known type; known are {', '.join(TABLES)}")
    return found


def table_of(source: DataSource, format: Format, files: list[Path]) -> Table:
    """Raises DataError for files that are not what their names say, and for no records at all."""
    table = (STREAMED if source.streaming else TABLES)[files[0].suffix](files, format.header)
    if not len(table):
        raise DataError(f"{source.path} has no rows")
    return table
