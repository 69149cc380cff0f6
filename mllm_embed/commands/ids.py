"""Lists of ids that commands are given."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError


def read_ids(path: Path) -> list[str]:
    """Return the ids of a text file, one a line. Raises DataError for one that cannot be read, or names none."""
    try:
        names = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as ids, one a line ({error})") from error
    if not names:
        raise DataError(f"{path} names no id: give one a line")
    return names
