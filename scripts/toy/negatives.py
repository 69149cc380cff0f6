"""Explicit negatives: an instruction that two pictures fit, and words for what one of them must not show.

"Add something at the left" fits the scene with a cat there and the one with a dog. Both stand in the gallery, and one
asks for each: nothing but what is avoided tells which is right, so that a model deaf to it finds one of two at most.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .scenes import BACKGROUNDS, SIZES, Scene, Thing, article, caption, place, sample_scene

KINDS = ("add", "replace", "background")
GROUP = 8  # references that draw on the same objects, so that the instruction gives no answer away
POOL = 8  # these objects


@dataclass(frozen=True)
class Choice:
    """An instruction with its two results: `words` names what each has and the other has not."""

    kind: str
    instruction: str
    results: tuple[Scene, Scene]
    words: tuple[str, str]


def choice(rng: random.Random, scene: Scene, nouns: Sequence[str], kind: str) -> Choice:
    """Return a choice of a kind; the scene has at most two things, and two of `nouns` at least are not in it."""
    return _CHOICES[kind](rng, scene, [noun for noun in nouns if noun not in scene.nouns])


def _add(rng: random.Random, scene: Scene, others: list[str]) -> Choice:
    cell, size, nouns = rng.choice(scene.free_cells), rng.choice(SIZES), rng.sample(others, 2)
    phrases = f"add something {place(cell)}", f"put something {place(cell)} as well", f"one thing more {place(cell)}"
    one, other = (scene.with_things([*scene.things, Thing(cell, noun, size)]) for noun in nouns)
    return Choice("add", rng.choice(phrases), (one, other), (article(nouns[0]), article(nouns[1])))


def _replace(rng: random.Random, scene: Scene, others: list[str]) -> Choice:
    old, nouns = rng.choice(scene.things), rng.sample(others, 2)
    phrases = f"replace the {old.noun} with something else", f"something else instead of the {old.noun}"
    one, other = (scene.with_things([*scene.without(old), replace(old, noun=noun)]) for noun in nouns)
    return Choice("replace", rng.choice(phrases), (one, other), (article(nouns[0]), article(nouns[1])))


def _background(rng: random.Random, scene: Scene, others: list[str]) -> Choice:
    one, other = rng.sample([name for name in BACKGROUNDS if name != scene.background], 2)
    phrases = "change the background", "the same things somewhere else", "another background"
    results = replace(scene, background=one), replace(scene, background=other)
    return Choice("background", rng.choice(phrases), results, (one, other))


_CHOICES: dict[str, Callable[[random.Random, Scene, list[str]], Choice]] = {
    "add": _add,
    "replace": _replace,
    "background": _background,
}


@dataclass(frozen=True)
class Reference:
    """A scene with a choice of each kind."""

    scene: Scene
    choices: tuple[Choice, ...]

    @property
    def scenes(self) -> list[Scene]:
        """The scene and all results."""
        return [self.scene, *(result for own in self.choices for result in own.results)]


def choosing_references(nouns: Sequence[str], count: int, seed: int) -> list[Reference]:
    """Return `count` references, no two of which share a scene; every group of 8 draws on the same few objects."""
    rng = random.Random(seed)
    references: list[Reference] = []
    known: set[Scene] = set()
    while len(references) < count:
        pool = rng.sample(list(nouns), min(POOL, len(nouns)))
        group = min(len(references) + GROUP, count)
        while len(references) < group:
            scene = sample_scene(rng, pool, rng.choice((1, 2)))
            found = Reference(scene, tuple(choice(rng, scene, pool, kind) for kind in KINDS))
            if known.isdisjoint(found.scenes):
                known.update(found.scenes)
                references.append(found)
    return references


def negatives_benchmark(
    name: str, references: Sequence[Reference], entry: Callable[[str, Scene], dict[str, Any]]
) -> dict[str, Any]:
    """Return the benchmark.json of explicit negatives; `entry` makes a scene's entry of the gallery, by its id."""
    gallery: list[dict[str, Any]] = []
    queries: list[dict[str, Any]] = []
    for number, reference in enumerate(references):
        source = entry(f"{number:03d}-00", reference.scene)
        gallery.append(source)
        for at, own in enumerate(reference.choices):
            results = [entry(f"{number:03d}-{2 * at + side + 1:02d}", own.results[side]) for side in (0, 1)]
            gallery += results
            queries += [_query(source, own, results[side], results[1 - side], own.words[1 - side]) for side in (0, 1)]
    return {"name": name, "gallery": gallery, "queries": queries}


def _query(
    source: dict[str, Any], own: Choice, right: dict[str, Any], wrong: dict[str, Any], avoid: str
) -> dict[str, Any]:
    return {
        "id": f"q{right['id']}", "image": source["image"], "instruction": own.instruction, "avoid": avoid,
        "targets": [right["id"]], "exclude": [source["id"]], "kind": own.kind, "negatives": [wrong["id"]],
    }  # fmt: skip


def choosing_rows(
    rng: random.Random, name: str, scene: Scene, choices: Sequence[Choice], paint: Callable[[str, Scene], str]
) -> list[dict[str, Any]]:
    """Return the rows of a reference for triplets.jsonl: two a choice, of which each avoids what the other asks for."""
    image, words = paint(name, scene), caption(scene, rng)
    rows = []
    for at, own in enumerate(choices):
        for side in (0, 1):
            row = f"{name}-{'abcdef'[2 * at + side]}"
            rows.append(
                {
                    "id": row, "image": image, "instruction": own.instruction, "avoid": own.words[1 - side],
                    "target_image": paint(row, own.results[side]), "target_text": caption(own.results[side], rng),
                    "source_text": words, "kind": own.kind,
                }
            )  # fmt: skip
    return rows
