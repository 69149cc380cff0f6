"""Scenes of sprites: what one is, how it is described, edited and painted. The demo and its base model live on them.

A scene is data (things in the cells of a 3 x 3 grid, on a background), so an edit is exact: applying it gives the
target scene, and its instruction is true by construction. Everything random comes from the `random.Random` passed in.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

CELLS = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
SIZES = ("large", "small")
BACKGROUNDS = {
    "a meadow": (118, 176, 84),
    "a beach": (232, 208, 150),
    "snow": (236, 240, 246),
    "the night sky": (24, 28, 66),
    "water": (66, 140, 200),
    "a wooden table": (150, 102, 62),
    "a brick wall": (172, 78, 62),
    "a pink carpet": (240, 160, 190),
}
KINDS = ("add", "remove", "replace", "move", "resize", "background")


@dataclass(frozen=True, order=True)
class Thing:
    """A thing of a scene: in which cell, how large, and what."""

    cell: int
    noun: str
    size: str

    @property
    def words(self) -> str:
        """Return the thing and its place in words."""
        return f"{article(f'{self.size} {self.noun}')} {place(self.cell)}"


@dataclass(frozen=True)
class Scene:
    """Some things in the cells of a grid, on a background."""

    things: tuple[Thing, ...]
    background: str

    @property
    def nouns(self) -> set[str]:
        """Return the nouns of the things."""
        return {thing.noun for thing in self.things}

    @property
    def free_cells(self) -> list[int]:
        """Return the cells in which nothing is."""
        taken = {thing.cell for thing in self.things}
        return [cell for cell in range(len(CELLS)) if cell not in taken]

    def with_things(self, things: list[Thing]) -> Scene:
        """Return the scene with these things instead."""
        return replace(self, things=tuple(sorted(things)))

    def without(self, thing: Thing) -> list[Thing]:
        """Return the things but one."""
        return [other for other in self.things if other != thing]


@dataclass(frozen=True)
class Edit:
    """A change of a scene: its kind, its instruction, and the scene after it."""

    kind: str
    instruction: str
    result: Scene
    paraphrases: tuple[str, ...] = ()


def article(words: str) -> str:
    """Return the words with their indefinite article."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def place(cell: int) -> str:
    """Return where a cell is, in words."""
    return "in the middle" if CELLS[cell] == "middle" else f"at the {CELLS[cell]}"


def ground(background: str) -> str:
    """Return the background in words, with its preposition."""
    return ("in " if background == "the night sky" else "on ") + background


def sample_scene(rng: random.Random, nouns: list[str], count: int | None = None) -> Scene:
    """Return one to three different things in different cells, each large or small."""
    count = count or rng.choice((1, 2, 2, 3))
    cells = rng.sample(range(len(CELLS)), count)
    things = [Thing(c, n, rng.choice(SIZES)) for c, n in zip(cells, rng.sample(nouns, count), strict=True)]
    return Scene(tuple(sorted(things)), rng.choice(list(BACKGROUNDS)))


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    """Return one sentence that tells the whole scene in reading order; `rng` chooses between two word orders."""
    *most, last = [thing.words for thing in scene.things]
    things = f"{', '.join(most)} and {last}" if most else last
    if rng is not None and rng.random() < 0.5:
        return f"{ground(scene.background)}: {things}"
    return f"{things}, {ground(scene.background)}"


def sample_edit(rng: random.Random, scene: Scene, nouns: list[str], kind: str | None = None) -> Edit | None:
    """Return a random edit of `scene`; None when a scene of this size has no edit of that kind."""
    kind = kind or rng.choice([k for k in KINDS if _possible(k, scene)])
    if not _possible(kind, scene):
        return None
    result, phrases = _EDITS[kind](rng, scene, nouns)
    chosen = rng.choice(phrases)
    return Edit(kind, chosen, result, tuple(phrase for phrase in phrases if phrase != chosen))


def _possible(kind: str, scene: Scene) -> bool:
    return {"add": len(scene.things) < 3, "remove": len(scene.things) > 1}.get(kind, True)


def _add(rng: random.Random, scene: Scene, nouns: list[str]) -> tuple[Scene, list[str]]:
    noun = rng.choice([n for n in nouns if n not in scene.nouns])
    new = Thing(rng.choice(scene.free_cells), noun, rng.choice(SIZES))
    where, what = place(new.cell), article(f"{new.size} {noun}")
    return scene.with_things([*scene.things, new]), [
        f"add {what} {where}",
        f"put {what} {where} as well",
        f"the same picture with {what} {where} too",
        f"{where} there should also be {what}",
    ]


def _remove(rng: random.Random, scene: Scene, nouns: list[str]) -> tuple[Scene, list[str]]:
    old = rng.choice(scene.things)
    return scene.with_things(scene.without(old)), [
        f"remove the {old.noun}",
        f"take the {old.noun} away",
        f"the same picture without the {old.noun}",
        f"get rid of the {old.noun}",
    ]


def _replace(rng: random.Random, scene: Scene, nouns: list[str]) -> tuple[Scene, list[str]]:
    old = rng.choice(scene.things)
    noun = rng.choice([n for n in nouns if n not in scene.nouns])
    return scene.with_things([*scene.without(old), replace(old, noun=noun)]), [
        f"replace the {old.noun} with {article(noun)}",
        f"swap the {old.noun} for {article(noun)}",
        f"{article(noun)} instead of the {old.noun}",
        f"turn the {old.noun} into {article(noun)}",
    ]


def _move(rng: random.Random, scene: Scene, nouns: list[str]) -> tuple[Scene, list[str]]:
    old = rng.choice(scene.things)
    cell = rng.choice(scene.free_cells)
    return scene.with_things([*scene.without(old), replace(old, cell=cell)]), [
        f"move the {old.noun} to the {CELLS[cell]}",
        f"put the {old.noun} {place(cell)} instead",
        f"the {old.noun} should be {place(cell)}",
        f"shift the {old.noun} to the {CELLS[cell]}",
    ]


def _resize(rng: random.Random, scene: Scene, nouns: list[str]) -> tuple[Scene, list[str]]:
    old = rng.choice(scene.things)
    size = "small" if old.size == "large" else "large"
    verb, compared = ("shrink", "smaller") if size == "small" else ("enlarge", "larger")
    return scene.with_things([*scene.without(old), replace(old, size=size)]), [
        f"make the {old.noun} {compared}",
        f"{verb} the {old.noun}",
        f"the {old.noun} should be {size}",
        f"the same picture with a {compared} {old.noun}",
    ]


def _background(rng: random.Random, scene: Scene, nouns: list[str]) -> tuple[Scene, list[str]]:
    new = rng.choice([b for b in BACKGROUNDS if b != scene.background])
    return replace(scene, background=new), [
        f"change the background to {new}",
        f"the same things {ground(new)}",
        f"put everything {ground(new)}",
        f"{ground(new)} instead",
    ]


_EDITS = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "move": _move,
    "resize": _resize,
    "background": _background,
}


class Painter:
    """A painter of scenes from cut-outs with alpha, named by their noun: `teddy bear.webp` or `teddy_bear.png`."""

    def __init__(self, sprites: Path, side: int = 96):
        self.side, self.cell = side, side // 3
        self.files = {
            f.stem.replace("_", " "): f for f in sorted(sprites.iterdir()) if f.suffix.lower() in (".png", ".webp")
        }
        self._cutouts: dict[tuple[str, str], np.ndarray] = {}

    @cached_property
    def nouns(self) -> list[str]:
        """Return what can be painted, in order."""
        return sorted(self.files)

    def paint(self, scene: Scene) -> Image.Image:
        """Return the picture of a scene; the grain of the background follows from the scene alone."""
        rng = np.random.default_rng(zlib.crc32(repr(scene).encode()))
        canvas = paint_background(scene.background, self.side, rng)
        for thing in scene.things:
            cutout = self._cutout(thing.noun, thing.size)
            top, left = (index * self.cell + (self.cell - len(cutout)) // 2 for index in divmod(thing.cell, 3))
            window = canvas[top : top + len(cutout), left : left + len(cutout)]
            alpha = cutout[..., 3:]
            window += alpha * (cutout[..., :3] - window)
        return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))

    def _cutout(self, noun: str, size: str) -> np.ndarray:
        if (noun, size) not in self._cutouts:
            side = self.cell - 2 if size == "large" else round(self.cell * 0.6)
            with Image.open(self.files[noun]) as file:
                pixels = np.asarray(file.convert("RGBA").resize((side, side), Image.Resampling.LANCZOS), np.float32)
            self._cutouts[noun, size] = pixels / np.array([1, 1, 1, 255], np.float32)
        return self._cutouts[noun, size]


def paint_background(name: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return [side, side, 3] float32 in 0..255: the ground's colour, its pattern, and grain."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    shade = {
        "a meadow": lambda: 9 * np.sin(x * 1.7 + 3 * np.sin(y * 0.4)),
        "a beach": lambda: 7 * np.sin(y * 0.35 + np.sin(x * 0.12)),
        "snow": lambda: -6 * (np.sin(x * 0.09) * np.sin(y * 0.13) > 0.3),
        "the night sky": lambda: 200.0 * (rng.random((side, side)) > 0.992),
        "water": lambda: 16 * np.sin(y * 0.5 + 2 * np.sin(x * 0.13)),
        "a wooden table": lambda: -28.0 * (y % 16 < 1) + 7 * np.sin(x * 0.07 + y * 1.3),
        "a brick wall": lambda: 55.0 * ((y % 12 < 1.5) | ((x + 12 * (y // 12 % 2)) % 24 < 1.5)),
        "a pink carpet": lambda: 26.0 * (((x % 12 - 6) ** 2 + (y % 12 - 6) ** 2) < 8),
    }[name]()
    grain = rng.normal(0, 4, (side, side)).astype(np.float32)
    return np.float32(BACKGROUNDS[name]) + (np.float32(shade) + grain)[..., None]
