"""Paths and lists of ids that commands are given."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, DataError, did_you_mean, reason
from ..files import read_text

if TYPE_CHECKING:
    from ..store.gallery import Gallery


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


def check_known(place: str, gallery: Gallery | Collection[str], names: list[str]) -> None:
    """Raise DataError for an id that a gallery, or the ids of the folder at a place, have not got."""
    if not isinstance(gallery, Collection):
        gallery.sources(names)
        return
    unknown = next((name for name in names if name not in gallery), None)
    if unknown is not None:
        near = did_you_mean(unknown, gallery)
        raise DataError(f'the id "{unknown}" is not among the {len(gallery)} pictures of {place}{near}')
