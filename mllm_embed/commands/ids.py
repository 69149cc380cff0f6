"""Paths and lists of ids that commands are given."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError, DataError, reason
from ..files import read_text


def local_path(text: str) -> Path:
    """Return a path of a command line. Raises ConfigError for a URL."""
    if "://" in text:
        from ..search.places import shown_place

        raise ConfigError(f"{shown_place(text)} is a URL: nothing is downloaded, so give a local path")
    return Path(text)


def read_ids(path: Path) -> list[str]:
    """Return the ids of a text file, one a line. Raises DataError for one that cannot be read, or names none."""
    try:
        # of all line breaks of Unicode one ends a line: others may be part of an id
        lines = read_text(path, "utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as ids, one a line ({reason(error)})") from error
    names = [line.removesuffix("\r") for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path} names no id: give one a line")
    return names
