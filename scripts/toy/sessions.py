"""Sessions of successive edits: what is looked for is a scene that two or three instructions lead to, one by one.

A reference has four first edits, each of them three second ones, and of these the last has two third ones. All scenes
stand in the gallery, and references come in groups that share their objects: neither the last instruction alone nor the
first picture alone tells which scene is meant.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .scenes import KINDS, Edit, Scene, sample_edit, sample_scene

GROUP, POOL = 8, 8  # references that share their objects, and how many objects
FIRST, SECOND, THIRD = 4, 3, 2
Entry = Callable[[str, Scene], dict[str, Any]]
"""Notes a scene to be painted under a name, and returns its entry in a gallery."""


@dataclass(frozen=True)
class Path:
    """A scene with its name, and the edits that lead to it, each with the name of what it was made of."""

    name: str
    scene: Scene
    edits: tuple[tuple[str, Edit], ...] = ()


@dataclass(frozen=True)
class Tree:
    """A reference with all that edits make of it, the reference first, and those paths that are sessions."""

    paths: tuple[Path, ...]
    sessions: tuple[Path, ...]


def session_trees(nouns: list[str], count: int, seed: int, known: set[Scene]) -> Iterator[Tree]:
    """Yield trees of `count` references; no scene is one of `known`, or comes twice."""
    rng, known = random.Random(seed), set(known)
    pool: list[str] = []
    for number in range(count):
        if number % GROUP == 0:
            pool = rng.sample(nouns, min(POOL, len(nouns)))
        yield _tree(rng, f"s{number:03d}", pool, known)


def _tree(rng: random.Random, name: str, nouns: list[str], known: set[Scene]) -> Tree:
    scene = sample_scene(rng, nouns, rng.choice((2, 2, 3)))
    while scene in known:
        scene = sample_scene(rng, nouns, rng.choice((2, 2, 3)))
    known.add(scene)
    paths, sessions = [Path(f"{name}-0", scene)], []
    for first in _edited(rng, paths[0], nouns, FIRST, known):
        seconds = _edited(rng, first, nouns, SECOND, known)
        thirds = _edited(rng, seconds[-1], nouns, THIRD, known)
        paths += [first, *seconds, *thirds]
        sessions += [*seconds[:-1], *thirds]
    return Tree(tuple(paths), tuple(sessions))


def _edited(rng: random.Random, path: Path, nouns: list[str], count: int, known: set[Scene]) -> list[Path]:
    """Return `count` edits of a path's scene, of kinds in turn from a random one on."""
    found: list[Path] = []
    turn = rng.randrange(len(KINDS))
    while len(found) < count:
        edit = sample_edit(rng, path.scene, nouns, KINDS[turn % len(KINDS)])
        turn += 1
        if edit is not None and edit.result not in known:
            known.add(edit.result)
            edits = (*path.edits, (path.name, edit))
            found.append(Path(f"{path.name}{len(found) + 1}", edit.result, edits))
    return found


def sessions_benchmark(title: str, trees: Iterator[Tree], entry: Entry) -> dict[str, Any]:
    """Return the content of a benchmark.json with the scenes as its gallery, and its sessions."""
    gallery, sessions = {}, []
    for tree in trees:
        gallery |= {path.name: entry(path.name, path.scene) for path in tree.paths}
        for path in tree.sessions:
            turns = [{"image": gallery[of]["image"], "instruction": edit.instruction} for of, edit in path.edits]
            sessions.append({"id": path.name, "targets": [path.name], "exclude": [tree.paths[0].name], "turns": turns})
    return {"name": title, "gallery": list(gallery.values()), "sessions": sessions}
