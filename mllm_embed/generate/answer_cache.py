"""A cache of answers on disk, one JSON line each, so that none is asked for twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, KeysView
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, reason

REFUSED = "refused"
CUT = "length"


@dataclass(frozen=True)
class CachedAnswer:
    """The text that came back for one prompt; `finish` is how it ended: "stop", "length" where cut, or "refused"."""

    text: str
    finish: str = "stop"


def cache_key(identity: dict[str, Any], prompt: str) -> str:
    """Return the sha256 over the model, its settings and the whole prompt: whatever of them differs is asked anew."""
    return hashlib.sha256(json.dumps([identity, prompt], sort_keys=True).encode()).hexdigest()


class AnswerCache:
    """The answers of a file to the keys that are wanted, or to all; others stay in the file.

    A line that cannot be read counts as not there: that is how a killed run leaves its last one. To ask again for
    what is in the file, remove its line. Raises DataError for a file that cannot be read or written.
    """

    def __init__(self, path: Path, wanted: Container[str] | None = None):
        """Open a file, new or with answers, and read it."""
        self.path = path
        self._answers: dict[str, CachedAnswer] = {}
        self._seconds: dict[str, float] = {}
        try:
            ended = self._read_file(wanted)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            if not ended:  # or the next answer would be lost with the line that a killed run left half-written
                self._file.write(b"\n")
        except OSError as error:
            raise DataError(f"{path} cannot hold the answers: {reason(error)}") from error

    def _read_file(self, wanted: Container[str] | None) -> bool:
        """Read what is there, and return whether the last line is whole."""
        ended = True
        if self.path.exists():
            with self.path.open("rb") as file:
                for line in file:
                    ended = line.endswith(b"\n")
                    self._read(line, wanted)
        return ended

    def _read(self, line: bytes, wanted: Container[str] | None) -> None:
        try:
            row = json.loads(line)
            key, text, finish = row["key"], row["answer"], row["finish"]
            seconds = float(row.get("seconds", 0))
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        readable = all(isinstance(value, str) for value in (key, text, finish))
        if readable and (wanted is None or key in wanted):
            self._answers[key] = CachedAnswer(text, finish)
            self._seconds[key] = seconds

    def keys(self) -> KeysView[str]:
        """Return the keys that have an answer."""
        return self._answers.keys()

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> CachedAnswer:
        return self._answers[key]

    def seconds(self, key: str) -> float:
        """Return the seconds that an answer took, 0 where they were not noted with it."""
        return self._seconds.get(key, 0.0)

    def add(self, key: str, answer: CachedAnswer, **notes: str) -> None:
        """Append an answer, with `notes` for a reader of the file; it is out of this process at once.

        The note `seconds` is what it took. Raises DataError for a file that cannot be written.
        """
        self._answers[key] = answer
        self._seconds[key] = float(notes.get("seconds", 0))
        row = {"key": key, **notes, "answer": answer.text, "finish": answer.finish}
        try:
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {reason(error)}") from error

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what a full disk did not take was told when it was added
            self._file.close()
