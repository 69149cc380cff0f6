"""From the path of a source to its files, and to the table of their records."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from mllm_embed.data.tables import TABLES, Table, kind_of, open_table
from mllm_embed.errors import DataError

from .formats import Format
from .source import DataSource

_SAVED = "dataset_info.json"  # beside the Arrow files of a data set of `datasets`


def files_of(source: DataSource, format: Format) -> list[Path]:
    """Return the files, in the order of their names.

    Raises DataError for a path that leads to none, or to files of several types.
    """
    path = source.path
    found = [path] if path.is_file() else _in_folder(path, format) if path.is_dir() else _matching(path)
    suffixes = sorted({kind_of(file) for file in found})
    if len(suffixes) > 1:
        raise DataError(
            f"{path} leads to files of several types ({', '.join(suffixes)}); give a pattern such as *{suffixes[0]}"
        )
    if suffixes[0] not in TABLES:
        raise DataError(f"{found[0]} is of no known type; known are {', '.join(TABLES)}")
    return found


def _in_folder(path: Path, format: Format) -> list[Path]:
    if (path / _SAVED).is_file() and any(kind_of(file) == ".arrow" for file in path.iterdir()):
        raise DataError(
            f"{path} is what `datasets` writes with save_to_disk: write it as parquet, "
            f"datasets.load_from_disk('{path}').to_parquet(FILE), and give that file"
        )
    found = sorted(file for file in path.iterdir() if file.is_file() and kind_of(file) in format.suffixes)
    if not found:
        endings = ", ".join(format.suffixes)
        raise DataError(f"{path} holds no {endings} file; give the file, or a pattern such as {path}/*/*")
    return found


def _matching(pattern: Path) -> list[Path]:
    paths = sorted(Path(name) for name in glob.glob(os.fspath(pattern), recursive=True))
    found = [path for path in paths if path.is_file()]
    if not found:
        raise DataError(f"{pattern} does not exist, and matches no file; nothing is downloaded, so give a local path")
    return found


def table_of(source: DataSource, format: Format, files: list[Path]) -> Table:
    """Return the records of files of one type.

    Raises DataError for files that are not what their names say, and for no records at all.
    """
    table = open_table(files, format.header, source.streaming)
    if not len(table):
        raise DataError(f"{source.path} has no rows")
    return table
