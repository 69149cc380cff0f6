"""Thoughts on a disk, so that the same question is not thought about twice."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

from ..errors import DataError
from ..thoughts.writer import Thought
from .answer_cache import AnswerCache, CachedAnswer


class ThoughtCache(MutableMapping[str, Thought]):
    """The thoughts of a file, new or with some, by their keys (`Thinking.key`), for an embedder's `thought_cache`.

    A line holds the tokens of a thought. Nothing is taken out of it. Raises DataError for a file that cannot be read or
    written.
    """

    def __init__(self, path: Path):
        """Open a file, and read it."""
        self._answers = AnswerCache(path)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in self._answers

    def __getitem__(self, key: str) -> Thought:
        """Return a thought. Raises KeyError for one that is not there, DataError for a line that holds none."""
        said = self._answers[key].text
        try:
            return tuple(map(int, said.split()))
        except ValueError as error:
            raise DataError(
                f"{self._answers.path} holds no thought but {said[:60]!r}: it is a cache of other answers; give "
                "another file"
            ) from error

    def __setitem__(self, key: str, thought: Thought) -> None:
        """Keep a thought. Raises DataError where the file cannot be written."""
        self._answers.add(key, CachedAnswer(" ".join(map(str, thought))))

    def __delitem__(self, key: str) -> None:
        """Raise TypeError: to think again, remove its line."""
        raise TypeError("thoughts stay in their file")

    def __iter__(self) -> Iterator[str]:
        return iter(self._answers.keys())

    def __len__(self) -> int:
        return len(self._answers.keys())
