"""JSON files that the library reads, each behind a door: how a whole one is made, and what is read from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz.tools.damages import DAMAGES, MISFITS, TEXTS, damaged, doubled_key, dropped, misfit
from fuzz.tools.harness import RIGHT, TOLD, Case, Told, attempt, expect, sift

_TEXT_DAMAGES = (*DAMAGES, *TEXTS)


@dataclass(frozen=True)
class JsonDoor:
    """Files that are read together.

    Args:
        name: of the door.
        make: writes whole files to a folder.
        files: those that are damaged, below the folder.
        read: returns all that is read from the folder, as text to compare.
        optional: keys that may be missing.
        words: misfits that are words, and may stand for others.
    """

    name: str
    make: Callable[[Path], None]
    files: tuple[str, ...]
    read: Callable[[Path], str]
    optional: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()


def door_cases(doors: Iterable[JsonDoor], bytes_seeds: int = 1, json_seeds: int = 2) -> list[Case]:
    """Return damages of the doors' files; those of bytes go round the files."""
    cases = []
    for door in doors:
        kinds = [(kind, seed) for kind in _TEXT_DAMAGES for seed in range(bytes_seeds)]
        kinds += [(kind, seed) for kind in (*MISFITS, "a key less", "a key twice") for seed in range(json_seeds)]
        for number, (kind, seed) in enumerate(kinds):
            file = door.files[number % len(door.files)]
            cases.append(Case(f"{door.name}, {file}, {kind} ({seed})", (door, file, kind, seed)))
    return cases


def sift_doors(name: str, cases: Sequence[Case], folder: Path) -> None:
    """Judge the damages of `door_cases` in folders below `folder`."""
    says: dict[str, str] = {}
    for door in {case.what[0].name: case.what[0] for case in cases}.values():
        door.make(folder / door.name / "whole")
        says[door.name] = door.read(folder / door.name / "whole")

    def judge(case: Case) -> str:
        door, file, kind, seed = case.what
        spoilt = folder / door.name / "spoilt"
        shutil.rmtree(spoilt, ignore_errors=True)
        shutil.copytree(folder / door.name / "whole", spoilt)
        where = spoil(spoilt / file, kind, seed)
        found = attempt(lambda: door.read(spoilt))
        if isinstance(found, Told):
            return TOLD
        if found == says[door.name] or kind in door.words or where.split(".")[-1] in door.optional:
            return RIGHT
        expect(kind in _TEXT_DAMAGES, f"{where}: {difference(says[door.name], found)}")
        clean = strict_json((spoilt / file).read_bytes())
        expect(clean is not None, f"read, though it is no JSON: {difference(says[door.name], found)}")
        # JSON of other words or numbers, which no reader can tell from what was meant
        return RIGHT

    sift(name, cases, judge)


def spoil(path: Path, kind: str, seed: int) -> str:
    """Damage a JSON file in place; return where."""
    data = path.read_bytes()
    if kind in _TEXT_DAMAGES:
        path.write_bytes(damaged(data, kind, seed))
        return kind
    tree = json.loads(data)
    if kind == "a key twice":
        # of a list the first object that there is
        first = tree[0] if isinstance(tree, list) else tree
        text, where = doubled_key(first, seed) if isinstance(first, dict) else (json.dumps(first), "nowhere")
        text = f"[{', '.join([text, *map(json.dumps, tree[1:])])}]" if isinstance(tree, list) else text
    else:
        tree, where = dropped(tree, seed) if kind == "a key less" else misfit(tree, kind, seed)
        text = json.dumps(tree)
    path.write_text(text)
    return where


def strict_json(data: bytes) -> Any:
    """Return the value of a JSON file; None where it is none, has a key twice, or a number that is none."""

    def refuse(_: str) -> None:
        raise ValueError

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(found)) < len(found):
            raise ValueError
        return dict(found)

    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=pairs, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None


_SPOILT = object()  # in the place of what JSON has no word for, or has two


def json_list(text: str, whole: bool = True) -> list[Any]:
    """Return the elements of a JSON list, decoded with surrogates for bytes that are no UTF-8.

    An element that holds such a byte, an infinite number, or a key twice, is None. Raises ValueError for a text that
    is no list; with `whole` False gives [None] for it.
    """

    def pairs(found: list[tuple[str, Any]]) -> Any:
        return dict(found) if len(dict(found)) == len(found) else _SPOILT

    try:
        # NaN is nothing, as tables write it
        found = json.loads(
            text, object_pairs_hook=pairs, parse_constant=lambda name: None if name == "NaN" else _SPOILT
        )
    except (ValueError, RecursionError):
        if whole:
            raise ValueError("no JSON") from None
        return [None]
    if not isinstance(found, list):
        raise ValueError("no list")
    return [None if _is_spoilt(element) else element for element in found]


def _is_spoilt(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_is_spoilt, (*value.keys(), *value.values())))
    if isinstance(value, list):
        return any(map(_is_spoilt, value))
    return value is _SPOILT or (isinstance(value, str) and any("\udc80" <= letter <= "\udcff" for letter in value))


def difference(whole: str, found: str) -> str:
    """Return where two texts part."""
    at = next((at for at, (a, b) in enumerate(zip(whole, found, strict=False)) if a != b), min(len(whole), len(found)))
    return f"...{whole[max(0, at - 30) : at + 40]}... became ...{found[max(0, at - 30) : at + 40]}..."
