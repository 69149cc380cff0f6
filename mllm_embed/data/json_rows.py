"""Rows of the data files, each with the place it came from, so that a complaint can name file and line."""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import DataError, reason
from ..files import parse_json, read_text
from ..text import half_character, printable

_SUSPICIOUS = 0.85


@dataclass(frozen=True)
class Checks:
    """The findings in one folder so far: the problems, and what is wrong (or None) with each picture named.

    Without `look`, the disk is not asked for pictures, whose names start from the folder `images`, by default `root`.
    """

    root: Path
    look: bool = True
    images: Path | None = None
    problems: list[str] = field(default_factory=list)
    pictures: dict[str, str | None] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Return where a picture lies."""
        return (self.images or self.root) / name

    def picture(self, name: str) -> str | None:
        """Return what is wrong with a picture; the disk is asked once a picture, however many rows name it."""
        if name not in self.pictures:
            if not self.look:
                return None
            self.pictures[name] = image_complaint(self.path(name), name)
        return self.pictures[name]


@dataclass(frozen=True)
class JsonRow:
    """One JSON object of a data file. Faults go to `checks`; a stand-in value lets reading go on."""

    values: dict[str, Any]
    where: str
    checks: Checks = field(repr=False)

    def problem(self, text: str) -> None:
        """Note what is wrong with this row."""
        self.checks.problems.append(f"{self.where}: {text}")

    def has(self, key: str) -> bool:
        """Return whether the row gives a value for the key (null counts as none)."""
        return self.values.get(key) is not None

    def known(self, *keys: str) -> None:
        """Note keys that look like a misspelling of a key that is missing."""
        missing = [key for key in keys if key not in self.values]
        for key in self.values:
            close = get_close_matches(key, missing, n=1, cutoff=_SUSPICIOUS) if key not in keys else []
            if close:
                self.problem(f'unknown key "{key}", did you mean "{close[0]}"?')

    def text(self, key: str) -> str:
        """Return a required, non-empty string."""
        value = self.values.get(key)
        if value is None:
            self.problem(f'"{key}" is missing')
        elif not isinstance(value, str):
            self.problem(f'"{key}" must be a string, not {_short(value)}')
        elif not value.strip():
            self.problem(f'"{key}" is empty')
        elif half_character(value):
            self.problem(f'"{key}" holds half a character (a lone surrogate): {_short(value)}')
        return value if isinstance(value, str) else ""

    def optional_text(self, key: str) -> str | None:
        """Return a string that may be absent but not empty."""
        return self.text(key) if self.has(key) else None

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a required list of non-empty strings."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(isinstance(entry, str) and entry.strip() for entry in value):
            self.problem(f'"{key}" must be a list of non-empty strings, not {_short(value)}')
            return ()
        if any(map(half_character, value)):
            self.problem(f'"{key}" holds half a character (a lone surrogate): {_short(value)}')
        return tuple(value)

    def ids(self, key: str) -> tuple[str, ...]:
        """Return a required list of different strings."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            self.problem(f'"{key}" must be a list of ids, not {_short(value)}')
            return ()
        if len(set(value)) < len(value):
            self.problem(f'"{key}" names an id twice')
        return tuple(value)

    def image(self, key: str) -> Path:
        """Return the required path of an existing, non-empty file, given relative to the folder and inside it."""
        return self._picture(key, self.text(key))

    def images(self, key: str) -> Path | tuple[Path, ...]:
        """Return a path as of `image`, or several where the row gives a list."""
        value = self.values.get(key)
        if not isinstance(value, list):
            return self.image(key)
        if not value or not all(isinstance(name, str) and name.strip() for name in value):
            self.problem(f'"{key}" must be a path or a list of paths, not {_short(value)}')
            return ()
        return tuple(self._picture(key, name) for name in value)

    def listed(self, key: str, what: str) -> list[JsonRow]:
        """Return the objects of a required, non-empty list as rows, called by `what` they are and their number."""
        values = self.values.get(key)
        if not isinstance(values, list) or not values or not all(isinstance(value, dict) for value in values):
            self.problem(f'"{key}" must be a non-empty list of objects, not {_short(values)}')
            return []
        return [JsonRow(value, f"{self.where}, {what} {at}", self.checks) for at, value in enumerate(values, 1)]

    def check_known(self, word: str, ids: tuple[str, ...], known: set[str]) -> None:
        """Note the ids, called by `word` what they are, that are not in the gallery."""
        for name in ids:
            if name not in known:
                self.problem(f'{word} "{name}" is not in the gallery')

    def check_apart(self, targets: tuple[str, ...], others: tuple[str, ...], what: str) -> None:
        """Note the targets that are among others, called by `what` one of those is."""
        for name in targets:
            if name in others:
                self.problem(f'"{name}" is both a target and {what}')

    def _picture(self, key: str, name: str) -> Path:
        if half_character(name):  # "text" has said so of a name alone
            complaint = None if name == self.values.get(key) else "is no Unicode; rename the file in UTF-8"
        else:
            complaint = self.checks.picture(name) if name.strip() else None
        if complaint:
            self.problem(f'{key} "{printable(name)}" {complaint}')
        return self.checks.path(name)


def json_lines(checks: Checks, name: str) -> Iterator[JsonRow]:
    """Yield the rows of a JSON-lines file, none without the file. Ids must differ; blank lines are skipped."""
    if not (checks.root / name).is_file():
        return
    first: dict[str, str] = {}
    count = 0
    for number, line in enumerate(_read(checks.root / name).split("\n"), start=1):
        if line.strip():
            count += 1
            row = _row(_decoded(line, f"{name}:{number}", checks), f"{name}:{number}", first, checks)
            if row:
                yield row
    if not count:
        checks.problems.append(f"{name} has no rows")


def array_rows(
    checks: Checks, name: str, keys: tuple[str, ...], any_of: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, list[JsonRow]]]:
    """Return the object that a JSON file holds, and the rows of the lists under its `keys`.

    Of the keys `any_of` one is enough, and the others have no rows then.
    """
    text = _read(checks.root / name)
    rows: dict[str, list[JsonRow]] = {key: [] for key in (*keys, *any_of)}
    content = _decoded(text, name, checks)
    if not isinstance(content, dict):
        if content is not _BROKEN:
            checks.problems.append(f"{name}: must be a JSON object, not {_short(content)}")
        return {}, rows
    lines = _element_lines(text)
    given = [key for key in any_of if content.get(key) is not None] or any_of[:1]
    for key in (*keys, *given):
        values = content.get(key)
        if not isinstance(values, list) or not values:
            checks.problems.append(f'{name}: "{key}" must be a non-empty list')
            continue
        places = [f"{name}:{line} ({key}[{index}])" for index, line in enumerate(lines[key])]
        rows[key] = list(_element_rows(values, places, checks))
    return content, rows


def _element_rows(values: list[Any], places: list[str], checks: Checks) -> Iterator[JsonRow]:
    first: dict[str, str] = {}
    for value, where in zip(values, places, strict=True):
        row = _row(value, where, first, checks)
        if row:
            yield row


def _row(value: Any, where: str, first: dict[str, str], checks: Checks) -> JsonRow | None:
    """Return a decoded value as a row, None for what is no object; `first` says where each id was met first."""
    if value is _BROKEN:
        return None
    if not isinstance(value, dict):
        checks.problems.append(f"{where}: must be a JSON object, not {_short(value)}")
        return None
    row = JsonRow(value, where, checks)
    identifier = value.get("id")
    if isinstance(identifier, str):
        if identifier in first:
            row.problem(f'duplicate id "{identifier}", first at {first[identifier]}')
        first.setdefault(identifier, where)
    return row


_BROKEN = object()


def _decoded(text: str, where: str, checks: Checks) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if ":" not in where else ""
        checks.problems.append(f"{where}{line}: bad JSON ({error.msg} at column {error.colno})")
    except (RecursionError, ValueError) as error:
        checks.problems.append(f"{where}: bad JSON ({error})")
    return _BROKEN


def _read(path: Path) -> str:
    try:
        return read_text(path, "utf-8-sig")  # editors on Windows write a byte order mark
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error


def image_complaint(path: Path, name: str) -> str | None:
    """Return what is wrong with a picture's path, `name` in its folder; None where a non-empty file is there."""
    try:
        if Path(name).is_absolute() or os.path.normpath(name).split(os.sep)[0] == "..":
            return "must be a path inside the folder"
        if not path.is_file():
            return "is not a file" if path.exists() else "does not exist"
        return None if path.stat().st_size else "is an empty file"
    except (OSError, ValueError) as error:
        return f"cannot be a path ({error})"


def _element_lines(text: str) -> dict[str, list[int]]:
    """Return the lines, from 1, on which the elements of each list in a valid JSON object start.

    A complaint names them, and json.loads keeps no places.
    """
    decode = json.JSONDecoder().raw_decode
    line_ends = [match.start() for match in re.finditer("\n", text)]

    def past(at: int) -> int:
        """Return the place of the next value: after space, a comma or colon if there is one, and space."""
        at = _skip_space(text, at)
        return _skip_space(text, at + 1) if text[at] in ",:" else at

    lines: dict[str, list[int]] = {}
    at = past(text.index("{") + 1)
    while text[at] != "}":
        key, at = decode(text, at)
        at = past(at)
        starts: list[int] = []
        if text[at] == "[":
            at = past(at + 1)
            while text[at] != "]":
                starts.append(bisect_right(line_ends, at) + 1)
                at = past(decode(text, at)[1])
            at += 1
        else:
            at = decode(text, at)[1]
        lines[key] = starts
        at = past(at)
    return lines


def _skip_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _short(value: Any) -> str:
    text = "a broken value" if value is _BROKEN else printable(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else text[:57] + "..."
