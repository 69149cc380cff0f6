"""The rows that could not be read: written down, counted, and fatal where they are more than a few."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mllm_embed.errors import DataError
from mllm_embed.files import json_bytes, writing

UNREADABLE_FILE = "unreadable.jsonl"
_JUDGED_FROM = 1000  # rows tried; of fewer, one bad picture may be many in a hundred


class UnreadableLog:
    """A JSONL file to which {"id", "source", "reason"} is appended for each row that could not be read, once a row.

    A run that goes on reads what it wrote before, so that no row is written twice. The process that trains adds rows,
    as batches arrive: no file is shared. `state` belongs into a checkpoint: a run that goes on judges by what
    it met before, too.

    Args:
        path: the file, in the run's folder.
        rows: how many there are in all, None where that is not known.
        share: the most that may be unreadable, of the rows tried so far, those that took another's place among them:
            judged from the 1000th on, or from the last of fewer.
    """

    def __init__(self, path: Path, rows: int | None = None, share: float = 0.01):
        self.path, self.rows, self.share = path, rows, share
        self.seen = self.met = 0
        self.last = ""
        self._known = _before(path)

    def count(self, seen: int) -> None:
        """Note that so many rows were asked for, each of which was read, or another in its place."""
        self.seen += seen
        self._judge(min(_JUDGED_FROM, self.rows or _JUDGED_FROM))

    def state(self) -> dict[str, int]:
        """Return what `restore` takes: how many rows were tried, and how many of them could not be read."""
        return {"seen": self.seen, "met": self.met}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on counting from there. The rows are judged again when more are counted, and at the end."""
        self.seen, self.met = int(state["seen"]), int(state["met"])

    def add(self, identifier: str, source: str, reason: str) -> None:
        """Note a row that was tried and could not be read; where it was asked for again, once more.

        Args:
            identifier: the row in its source, as `MixedRows.where` names it.
            source: the file that it comes from.
            reason: why, which may start by naming both.

        Raises:
            DataError: the file cannot be written.
        """
        reason = reason.removeprefix(f"{source}: {identifier}: ")
        self.seen, self.met = self.seen + 1, self.met + 1
        self.last = f"{source}: {identifier}: {reason}"
        if (identifier, source) in self._known:
            return
        self._known.add((identifier, source))
        line = json_bytes({"id": identifier, "source": source, "reason": reason})
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line)

    def close(self) -> str | None:
        """Return what to tell at the end, None when every row was read. Raises DataError when too many were not."""
        self._judge(1)
        if not self.met:
            return None
        return f"{len(self._known):,} rows could not be read and others took their place: {self.path} lists them"

    def _judge(self, least: int) -> None:
        if self.seen >= least and self.met > self.share * self.seen:
            last = f" (the last: {self.last})" if self.last else ""
            raise DataError(
                f"{self.met:,} of the {self.seen:,} rows tried cannot be read, more than max_unreadable "
                f"{self.share:g} allows; {self.path} lists them{last}; replace them, or raise max_unreadable"
            )


def _before(path: Path) -> set[tuple[str, str]]:
    """Return the rows that the file names already; a line that a full disk cut off is left out."""
    known = set()
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                known.add((row["id"], row["source"]))
            except (ValueError, KeyError, TypeError):
                continue
    return known
