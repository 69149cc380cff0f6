"""Sessions of a folder's benchmark: searches of several turns, each of which says more of what is looked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .json_rows import JsonRow


@dataclass(frozen=True)
class FolderTurn:
    """What is said in a turn, and the picture or pictures that it is about: those of the turn before by default."""

    image: Path | tuple[Path, ...]
    instruction: str


@dataclass(frozen=True)
class FolderSession:
    """Turns that look for the same: the gallery ids that are right in the end, and those left out of every ranking."""

    id: str
    turns: tuple[FolderTurn, ...]
    targets: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    kind: str | None = None


def session_of(row: JsonRow, gallery: set[str]) -> FolderSession:
    """Return the session that a row describes; what is wrong with it goes to the row's checks."""
    row.known("id", "turns", "targets", "exclude", "kind")
    targets = row.ids("targets")
    exclude = row.ids("exclude") if row.has("exclude") else ()
    row.check_known("target", targets, gallery)
    row.check_known("excluded id", exclude, gallery)
    row.check_apart(targets, exclude, "excluded")
    if not targets and isinstance(row.values.get("targets"), list):
        row.problem("targets is empty")
    turns: list[FolderTurn] = []
    for turn in row.listed("turns", "turn"):
        turn.known("image", "instruction")
        before = turns[-1].image if turns and not turn.has("image") else None
        turns.append(FolderTurn(turn.images("image") if before is None else before, turn.text("instruction")))
    return FolderSession(row.text("id"), tuple(turns), targets, exclude, row.optional_text("kind"))
