"""What a model was trained on, as numbers, and how much of a benchmark is among it: leaks, by which a figure is memory.

Everything counts by content: a picture by its file's bytes, whatever its name and place, words without regard to case
and spaces. A picture that was saved again, as JPEG of another quality, say, or in another size, is another one here.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import DataError, ImageError, reason
from ..files import atomic_file
from ..inputs.images import content_key
from ..types import ImageLike, Item, Query

TRAINED_ON = "trained_on.safetensors"
_FORMAT = "1"
_BLOCK = 4096  # questions whose pictures are read together
_READERS = 8  # threads: a network's disk answers slowly, and to many at once
_TOGETHER = 32  # pictures that a thread reads at a time


class Question(NamedTuple):
    """What asks, one item or several that are averaged, its right answers, and what else is shown with it."""

    asks: Sequence[Item]
    answers: Sequence[Item]
    shown: Sequence[Item] = ()


class Contents:
    """The numbers of pictures and items; a file is read once."""

    def __init__(self) -> None:
        """Know none."""
        self._known: dict[str, int | None] = {}

    def read(self, items: Iterable[Item]) -> None:
        """Read the picture files of items that are not known yet, several at a time."""
        images = chain.from_iterable(item.images for item in items)
        named = dict.fromkeys(os.fspath(image) for image in images if isinstance(image, (str, os.PathLike)))
        new = [name for name in named if name not in self._known]
        parts = [new[start : start + _TOGETHER] for start in range(0, len(new), _TOGETHER)]
        with ThreadPoolExecutor(_READERS) as pool:
            self._known.update(zip(new, chain.from_iterable(pool.map(_picture_numbers, parts)), strict=True))

    def picture(self, image: ImageLike) -> int | None:
        """Return the number of a picture's content, None for one that cannot be read."""
        if not isinstance(image, (str, os.PathLike)):
            return _picture_number(image)  # not kept, since it would be held in memory as a key
        name = os.fspath(image)
        if name not in self._known:
            self._known[name] = _picture_number(image)
        return self._known[name]

    def item(self, item: Item) -> int | None:
        """Return the number of an item's pictures and words; None where a picture cannot be read."""
        pictures = [self.picture(image) for image in item.images]
        if None in pictures:
            return None
        instruction = item.instruction if isinstance(item, Query) else None
        return _number(json.dumps([pictures, [_plain(words) for words in (item.text, instruction) if words]]).encode())


def _picture_numbers(images: Sequence[ImageLike]) -> list[int | None]:
    return list(map(_picture_number, images))


def _picture_number(image: ImageLike) -> int | None:
    try:
        return _signed(content_key(image)[:16])
    except ImageError:
        return None


def _plain(words: str) -> str:
    return " ".join(unicodedata.normalize("NFC", words).casefold().split())


def _number(content: bytes) -> int:
    return _signed(hashlib.blake2b(content, digest_size=8).hexdigest())


def _signed(digest: str) -> int:
    return int.from_bytes(bytes.fromhex(digest), "big", signed=True)


def _pair(question: int, answer: int) -> int:
    return _number(f"{question} {answer}".encode())


_Set: TypeAlias = np.ndarray  # [N] int64, increasing, each once


def _union(sets: Iterable[_Set]) -> _Set:
    return np.unique(np.concatenate([np.empty(0, np.int64), *sets]))


def _set_of(values: Iterable[int]) -> _Set:
    return np.unique(np.fromiter(values, np.int64))


@dataclass(frozen=True)
class TrainedOn:
    """The numbers of what a model was trained on: 8 bytes each, in increasing order.

    Args:
        asked: of each question with a picture. Words alone may well be asked of other pictures.
        answered: of each question with one of its right answers.
        pictures: of each picture.
        unknown: what else it was trained on, in words, of which there are no numbers.
    """

    asked: _Set = field(default_factory=lambda: np.empty(0, np.int64))
    answered: _Set = field(default_factory=lambda: np.empty(0, np.int64))
    pictures: _Set = field(default_factory=lambda: np.empty(0, np.int64))
    unknown: tuple[str, ...] = ()

    @classmethod
    def of(cls, questions: Iterable[Question], contents: Contents | None = None) -> TrainedOn:
        """Return the numbers of questions; what cannot be read has none."""
        contents = contents or Contents()
        parts = []
        rest = iter(questions)
        while block := list(islice(rest, _BLOCK)):
            contents.read(chain.from_iterable((*one.asks, *one.answers, *one.shown) for one in block))
            parts.append(_numbered(block, contents))
        return cls.joined(parts)

    @classmethod
    def joined(cls, parts: Sequence[TrainedOn]) -> TrainedOn:
        """Return what is in any of the parts."""
        unknown = chain.from_iterable(part.unknown for part in parts)
        return cls(
            _union(part.asked for part in parts),
            _union(part.answered for part in parts),
            _union(part.pictures for part in parts),
            tuple(dict.fromkeys(unknown)),
        )

    def save(self, path: Path, about: str = "") -> None:
        """Write it to a file, with a word `about` what it is of. Raise DataError where the disk fails."""
        arrays = {name: getattr(self, name) for name in ("asked", "answered", "pictures")}
        metadata = {"format": _FORMAT, "unknown": json.dumps(self.unknown), "about": about}
        with atomic_file(path) as temporary:
            save_file(arrays, temporary, metadata)


def read_trained_on(path: Path) -> tuple[TrainedOn, str]:
    """Return what `TrainedOn.save` wrote, and the word about it. Raise DataError for a file that is anything else."""
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise DataError(f"{path} is no {TRAINED_ON} of format {_FORMAT}; give one that a training run wrote")
            asked, answered, pictures = (file.get_tensor(name) for name in ("asked", "answered", "pictures"))
            return TrainedOn(asked, answered, pictures, tuple(json.loads(metadata["unknown"]))), metadata["about"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({reason(error)}); give one that a training run wrote") from error


def record_beside(folder: str | os.PathLike[str] | None) -> TrainedOn | None:
    """Return what lies in a model's or adapter's folder of what it was trained on; None where nothing does.

    Raise DataError for a damaged file.
    """
    path = None if folder is None else Path(folder) / TRAINED_ON
    return read_trained_on(path)[0] if path is not None and path.is_file() else None


class _Numbers:
    """The numbers of some questions."""

    def __init__(self, contents: Contents):
        """Have none of them yet."""
        self.contents = contents
        self.asked: set[int] = set()
        self.answered: set[int] = set()
        self.pictures: set[int] = set()
        # by identity, which the questions keep alive: an item of a row stands in several of them
        self._known: dict[int, int | None] = {}

    def add(self, one: Question) -> None:
        """Add those of a question, which the caller holds on to; what cannot be read has none."""
        answers = [number for number in map(self._item, one.answers) if number is not None]
        for item in one.asks:
            question = self._item(item)
            if question is not None:
                self.answered.update(_pair(question, answer) for answer in answers)
                if item.images:
                    self.asked.add(question)
        self.pictures.update(_readable(self.contents, (*one.asks, *one.answers, *one.shown)))

    def _item(self, item: Item) -> int | None:
        if id(item) not in self._known:
            self._known[id(item)] = self.contents.item(item)
        return self._known[id(item)]


def _numbered(block: Sequence[Question], contents: Contents) -> TrainedOn:
    found = _Numbers(contents)
    for one in block:
        found.add(one)
    return TrainedOn(_set_of(found.asked), _set_of(found.answered), _set_of(found.pictures))


class Leaks(NamedTuple):
    """How much of a benchmark a model was trained on.

    Args:
        queries: the benchmark's.
        asked: those of them that training asks too; of words alone, with the same right answer.
        answered: those of these with the same right answer.
        pictures: the different pictures of queries and gallery.
        seen: those of them that training shows.
    """

    queries: int
    asked: int
    answered: int
    pictures: int
    seen: int

    def in_words(self, what: str, where: str) -> str:
        """Return a sentence on the leaks of `what` into `where`."""
        pictures = f"{self.seen:,} of its {self.pictures:,} pictures are seen there"
        if not self.asked:
            return f"{what}: none of its {self.queries:,} queries is asked in {where}; {pictures}"
        return (
            f"{what}: {self.asked:,} of its {self.queries:,} queries are asked in {where} too, {self.answered:,} of "
            f"them with the same right answer; {pictures}"
        )

    def check(self, what: str, where: str) -> None:
        """Raise DataError for a query that is asked in training."""
        if self.asked:
            raise DataError(f"{self.in_words(what, where)}: take those rows out, or leave --strict out")


def count_leaks(
    trained: TrainedOn, queries: Sequence[Question], gallery: Iterable[Item], contents: Contents | None = None
) -> Leaks:
    """Return how many of a benchmark's queries, and of their pictures and the gallery's, a model was trained on."""
    contents, asked, answered = contents or Contents(), 0, 0
    shown = [*gallery, *chain.from_iterable((*one.asks, *one.shown) for one in queries)]
    contents.read(shown)
    for one in queries:
        own = _numbered([one], contents)
        right = _any_in(own.answered, trained.answered)
        asked += right or _any_in(own.asked, trained.asked)
        answered += right
    pictures = _set_of(_readable(contents, shown))
    return Leaks(len(queries), asked, answered, len(pictures), int(np.isin(pictures, trained.pictures).sum()))


def _readable(contents: Contents, items: Iterable[Item]) -> Iterator[int]:
    for image in chain.from_iterable(item.images for item in items):
        number = contents.picture(image)
        if number is not None:
            yield number


def _any_in(some: _Set, all_of_them: _Set) -> bool:
    if not len(all_of_them):
        return False
    place = np.minimum(np.searchsorted(all_of_them, some), len(all_of_them) - 1)
    return bool((all_of_them[place] == some).any())
