"""Fingerprints of data files, cheap for any size, and whether they are still the files that were opened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ...errors import DataError

_ENDS = 1 << 16


def files_fingerprint(files: Iterable[Path]) -> str:
    """Return the sha256 over each file's name, size, and first and last 64 KiB."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode("utf-8", "surrogateescape"))
        with path.open("rb") as file:
            digest.update(file.read(_ENDS))
            file.seek(max(size - _ENDS, 0))
            digest.update(file.read(_ENDS))
    return digest.hexdigest()


class OpenedFiles:
    """Files as they were when they were opened: where their rows lie is known of these alone."""

    def __init__(self, files: Iterable[Path]):
        """Note what the files are now."""
        self._stamps = {path: _stamp(path) for path in files}

    def check(self, path: Path) -> None:
        """Raise DataError for a file that has been written to or replaced since."""
        if _stamp(path) != self._stamps[path]:
            raise DataError(f"{path} was changed while it was being read: give the same command again")


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
