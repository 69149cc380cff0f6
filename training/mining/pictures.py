"""What pictures hold, as numbers; what was read before is kept on disk, so that no file is read twice for it.

Two names of one picture give one number. A file counts as read before while its size and its time of writing are the
same.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path

import numpy as np

from mllm_embed.errors import ConfigError, ImageError
from mllm_embed.files import atomic_file
from mllm_embed.inputs.images import content_key
from mllm_embed.types import ImageLike

from ..data.numbers import number_of

_FIELDS = 4  # of a picture: the number of its path, its size, when it was written, the number of its content
_SAVED_EVERY = 20_000  # pictures read


class PictureContents:
    """The numbers of pictures' contents.

    `number` costs a look at a file's size and time where it was read before, and a read where not. Memory: 32 bytes of
    what the file on disk knows, and about 120 a picture that was asked for.

    Args:
        path: the file that keeps them, [K, 4] int64; None keeps nothing.
        writes: what is new is written there.

    Raises ConfigError for a file that is none of these.
    """

    def __init__(self, path: Path | None = None, writes: bool = True):
        self.path, self.writes = path, writes
        self._known = np.empty((0, _FIELDS), np.int64) if path is None else _read(path)
        self._asked: dict[int, int] = {}
        self._new = array("q")
        self._unsaved = 0

    def number(self, picture: ImageLike) -> int:
        """Return an int64 that pictures of one content share; one that cannot be read counts by its name."""
        if isinstance(picture, bytes):
            return number_of(picture)
        if not isinstance(picture, (str, os.PathLike)):
            return number_of(content_key(picture))
        name = os.fspath(picture)
        path = number_of(name)
        if path not in self._asked:
            self._asked[path] = self._of_file(name, path)
        return self._asked[path]

    def save(self) -> None:
        """Write what is known, if any of it is new. Raises DataError for a disk that fails."""
        if self.path is None or not self.writes or not self._unsaved:
            return
        new = np.array(self._new, np.int64).reshape(-1, _FIELDS)
        kept = self._known[~np.isin(self._known[:, 0], new[:, 0])]
        self._known = _sorted(np.concatenate([kept, new]))
        self._new, self._unsaved = array("q"), 0
        with atomic_file(self.path) as temporary, temporary.open("wb") as file:
            np.save(file, self._known)

    def _of_file(self, name: str, path: int) -> int:
        try:
            found = os.stat(name)
        except OSError:
            return number_of("unreadable", name)
        at = int(np.searchsorted(self._known[:, 0], path))
        if at < len(self._known):
            known, size, written, content = self._known[at].tolist()
            if (known, size, written) == (path, found.st_size, found.st_mtime_ns):
                return int(content)
        try:
            content = number_of(content_key(name))
        except ImageError:
            return number_of("unreadable", name)
        self._new.extend((path, found.st_size, found.st_mtime_ns, content))
        self._unsaved += 1
        if self._unsaved >= _SAVED_EVERY:
            self.save()
        return content


def _read(path: Path) -> np.ndarray:
    if not path.is_file():
        return np.empty((0, _FIELDS), np.int64)
    try:
        known = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path} cannot be used ({error}); remove it") from error
    if known.dtype != np.int64 or known.ndim != 2 or known.shape[1] != _FIELDS:
        raise ConfigError(f"{path} is {known.dtype} of shape {known.shape}, no record of pictures; remove it")
    return _sorted(known)


def _sorted(known: np.ndarray) -> np.ndarray:
    return known[np.argsort(known[:, 0], kind="stable")]
