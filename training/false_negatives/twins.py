"""Twins: pictures that are one under several names, by the content of their files.

Files of one size are compared by their ends, and those whose ends agree by all of their bytes, so that of most pictures
no more is read than what the file system says of them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, NamedTuple

import numpy as np
from tqdm import tqdm

from ..data.numbers import number_of

_ENDS = 4096  # bytes; pictures of one format begin alike, and end each in its own data
_BAR_FILES = 50_000  # from which on looking at them takes long enough to show it
_BLOCK = 1 << 20
_GONE = -1  # the size of a file that cannot be looked at: its row's own mistake


class Sharing(NamedTuple):
    """How several processes share work: this one's number, how many there are, and what puts their arrays together.

    `gather` takes [n] int64 of this process, and returns those of all, one after the other, in every process.
    """

    rank: int = 0
    processes: int = 1
    gather: Callable[[np.ndarray], np.ndarray] = np.asarray

    def share(self, length: int) -> range:
        """Return this process's part of so many things, which lie side by side."""
        return range(length * self.rank // self.processes, length * (self.rank + 1) // self.processes)


ALONE = Sharing()


@dataclass(frozen=True)
class Twins:
    """Pictures that have twins.

    Args:
        pictures: [T] int64, increasing, the numbers of their names (`number_of`).
        groups: [T] int64, the group of each, numbered by the least of its pictures.
    """

    pictures: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.pictures)

    def name_of(self, name: str) -> Hashable:
        """Return what a picture and its twins are called: its own name where it has none."""
        if not len(self.pictures):
            return name
        number = number_of(name)
        at = int(np.searchsorted(self.pictures, number))
        found = at < len(self.pictures) and self.pictures[at] == number
        return int(self.groups[at]) if found else name

    def joined(self, one: np.ndarray, other: np.ndarray) -> Twins:
        """Return these and further pairs of twins, [P] int64 each: twins of twins are twins."""
        group: dict[int, int] = {}

        def least(picture: int) -> int:
            while group.setdefault(picture, picture) != picture:
                picture = group[picture]
            return picture

        pairs = zip([*self.pictures.tolist(), *one.tolist()], [*self.groups.tolist(), *other.tolist()], strict=True)
        for ends in pairs:
            low, high = sorted(map(least, ends))
            group[high] = low
        pictures = np.array(sorted(group), np.int64)
        return Twins(pictures, np.array([least(picture) for picture in pictures.tolist()], np.int64))


NO_TWINS = Twins(np.empty(0, np.int64), np.empty(0, np.int64))


def content_twins(names: Iterable[str], sharing: Sharing = ALONE) -> Twins:
    """Return the twins among the files of this process's `names` and those of the other processes, as `Survey`."""
    with tempfile.TemporaryFile() as file:
        survey = Survey(file)
        for name in names:
            survey.add(name)
        return survey.twins(sharing)


class Survey:
    """The files of names, among which twins are looked for when all are known.

    Takes 24 bytes of memory a name, which may come several times, and its letters on disk. What cannot be read has no
    twin.
    """

    def __init__(self, file: IO[bytes]):
        """Know none; `file` is a new one, for the names."""
        self._file = file
        self._numbers, self._sizes, self._stops = array("q"), array("q"), array("q", [0])
        self._look = lru_cache(maxsize=1 << 16)(_seen)  # rows about one picture come one after the other

    def add(self, name: str) -> None:
        """Note a file."""
        number, size = self._look(name)
        self._numbers.append(number)
        self._sizes.append(size)
        self._stops.append(self._stops[-1] + self._file.write(os.fsencode(name)))

    def twins(self, sharing: Sharing = ALONE) -> Twins:
        """Return the twins by content among the files that all processes noted."""
        numbers, sizes = (np.array(values, np.int64) for values in (self._numbers, self._sizes))
        alike = _shared(*_gathered(numbers, sizes, sharing))
        alike = _shared(*_gathered(*self._digests(numbers, alike, _ends, "comparing pictures"), sharing))
        return _groups(*_gathered(*self._digests(numbers, alike, _whole, "reading likely twins"), sharing))

    def distinct(self, twins: Twins) -> tuple[np.ndarray, list[str]]:
        """Return the numbers [n] int64, increasing, and the names of this process's files, of a group the first."""
        numbers, first = np.unique(np.array(self._numbers, np.int64), return_index=True)
        doubled = np.isin(numbers, twins.pictures[twins.pictures != twins.groups], assume_unique=True)
        return numbers[~doubled], [self._name(at) for at in first[~doubled].tolist()]

    def _digests(
        self, numbers: np.ndarray, wanted: np.ndarray, digest: Callable[[str], int | None], title: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return of this process's pictures those that are `wanted` [W] int64, increasing, and their digests."""
        distinct, first = np.unique(numbers, return_index=True)
        first = first[np.isin(distinct, wanted, assume_unique=True)]
        found = [(int(numbers[at]), digest(self._name(at))) for at in self._shown(first, title)]
        read = np.array([pair for pair in found if pair[1] is not None], np.int64).reshape(-1, 2)
        return read[:, 0], read[:, 1]

    def _shown(self, places: np.ndarray, title: str) -> Iterator[int]:
        hide = len(places) < _BAR_FILES
        return iter(tqdm(places.tolist(), desc=title, unit="file", leave=False, disable=hide, mininterval=1))

    def _name(self, at: int) -> str:
        self._file.seek(self._stops[at])
        return os.fsdecode(self._file.read(self._stops[at + 1] - self._stops[at]))


def _seen(name: str) -> tuple[int, int]:
    """Return the number of a name, and the bytes of its file."""
    try:
        return number_of(name), os.stat(name).st_size
    except (OSError, ValueError):
        return number_of(name), _GONE


def _ends(name: str) -> int | None:
    try:
        with open(name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_ENDS)
            file.seek(max(size - _ENDS, 0))
            return number_of(str(size), head, file.read(_ENDS))
    except OSError:
        return None


def _whole(name: str) -> int | None:
    digest = hashlib.blake2b(digest_size=8)
    try:
        with open(name, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return None
    return int.from_bytes(digest.digest(), "big", signed=True)


def _gathered(numbers: np.ndarray, values: np.ndarray, sharing: Sharing) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct numbers of all processes [N] int64, increasing, and the value of each [N]."""
    every, values = sharing.gather(numbers), sharing.gather(values)
    numbers, first = np.unique(every, return_index=True)
    return numbers, values[first]


def _shared(numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return those of numbers [N] whose value [N] another has too, increasing."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return numbers[(counts[which] > 1) & (values != _GONE)]


def _groups(numbers: np.ndarray, values: np.ndarray) -> Twins:
    """Return as twins those of the increasing numbers [N] that have one value [N]."""
    _, first, which, counts = np.unique(values, return_index=True, return_inverse=True, return_counts=True)
    several = counts[which] > 1
    return Twins(numbers[several], numbers[first[which]][several])
