"""Answers on disk, one JSON line each, so that none is asked for twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError

REFUSED = "refused"
CUT = "length"


@dataclass(frozen=True)
class CachedAnswer:
    """What came back for one prompt; `finish` tells how it ended: "stop", "length" where cut, or "refused"."""

    text: str
    finish: str = "stop"


def cache_key(identity: dict[str, Any], prompt: str) -> str:
    """sha256 over the model, its settings and the whole prompt: whatever of them differs is asked anew."""
    return hashlib.sha256(json.dumps([identity, prompt], sort_keys=True).encode()).hexdigest()


class AnswerCache:
    """The answers of a file to the keys that are wanted, or to all; others stay in the file.

    A line that cannot be read counts as not there: that is how a killed run leaves its last one. To ask again for
    what is in the file, remove its line. Raises DataError for a file that cannot be read or written.
    """

    def __init__(self, path: Path, wanted: Container[str] | None = None):
        self.path = path
        self._answers: dict[str, CachedAnswer] = {}
        self._seconds: dict[str, float] = {}
        ended = True
        try:
            if path.exists():
                with path.open("rb") as file:
                    for line in file:
                        ended = line.endswith(b"\n")
                        self._read(line, wanted)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            if not ended:
                self._file.write(b"\n")
        except OSError as error:
            raise DataError(f"{path} cannot hold the answers: {error.strerror}") from error

    def _read(self, line: bytes, wanted: Container[str] | None) -> None:
        try:
            row = json.loads(line)
            key, text, finish = row["key"], row["answer"], row["finish"]
            took = float(row.get("seconds", 0))
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if (
            isinstance(key, str)
            and isinstance(text, str)
            and isinstance(finish, str)
            and (wanted is None or key in wanted)
        ):
            self._answers[key] = CachedAnswer(text, finish)
            self._seconds[key] = took

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> CachedAnswer:
        return self._answers[key]

    def seconds(self, key: str) -> float:
        """What an answer took, where that was told with it."""
        return self._seconds.get(key, 0.0)

    def add(self, key: str, answer: CachedAnswer, **told: str) -> None:
        """Append an answer, with what else its line shall tell a reader; it is out of this process at once."""
        self._answers[key] = answer
        self._seconds[key] = float(told.get("seconds", 0))
        row = {"key": key, **told, "answer": answer.text, "finish": answer.finish}
        try:
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error.strerror}") from error

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
