"""Training data with more than one right answer: instructions that leave the place open, pictures under two names.

Real data is so: two people remark the same of one picture and mean different ones, an instruction fits several
pictures, and what was collected twice lies there twice, once as a JPEG of another quality. Here a reference has four
rows, which all ask the same: in two wordings, of the reference under two names. The target of each is right for all.

    row    reference    wording    target
    a      as is        first      one
    b      again        second     other
    c      as is        second     one, again
    d      again        first      other, again
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .scenes import Edit, Scene, Thing, article, caption

QUALITY = 60  # of the JPEG of a picture that lies there again
Paint = Callable[[str, Scene, int | None], str]
"""Notes a scene to be painted under a name, as JPEG of a quality or of the usual one, and returns its file."""


def open_edit(rng: random.Random, scene: Scene, nouns: list[str]) -> tuple[Edit, Edit] | None:
    """Return two changes that one instruction allows, each with all of its wordings; None where there is no room."""
    if len(scene.free_cells) < 2 or len(scene.things) > 2:
        return None
    if rng.random() < 0.5:
        noun, size = rng.choice([n for n in nouns if n not in scene.nouns]), rng.choice(("large", "small"))
        kept, kind, new = list(scene.things), "add", Thing(0, noun, size)
        what = article(f"{size} {noun}")
        words = [f"add {what}", f"put {what} somewhere", f"the same picture with {what} too", f"also {what}"]
    else:
        old = rng.choice(scene.things)
        kept, kind, new = scene.without(old), "move", old
        words = [f"move the {old.noun}", f"put the {old.noun} somewhere else", f"the {old.noun} elsewhere",
                 f"the same picture with the {old.noun} in another place"]  # fmt: skip
    wordings = rng.sample(words, 2)
    cells = rng.sample(scene.free_cells, 2)
    results = [scene.with_things([*kept, replace(new, cell=cell)]) for cell in cells]
    one, other = (Edit(kind, words, result, tuple(w for w in wordings if w != words))
                  for words, result in zip(wordings, results, strict=True))  # fmt: skip
    return one, other


def open_rows(
    rng: random.Random, name: str, source: Scene, edits: tuple[Edit, Edit], paint: Paint
) -> list[dict[str, Any]]:
    """Return the four rows of a reference, for triplets.jsonl."""
    one, other = edits
    asked = {"first": (one.instruction, other.instruction), "second": (other.instruction, one.instruction)}
    images = {False: paint(name, source, None), True: paint(f"{name}-z", source, QUALITY)}
    words = caption(source, rng)
    plan = [("a", False, "first", one, None), ("b", True, "second", other, None),
            ("c", False, "second", one, QUALITY), ("d", True, "first", other, QUALITY)]  # fmt: skip
    return [
        {
            "id": f"{name}-{letter}", "image": images[again], "instruction": asked[wording][0],
            "paraphrases": [asked[wording][1]], "target_image": paint(f"{name}-{letter}", edit.result, quality),
            "target_text": caption(edit.result, rng), "source_text": words, "kind": edit.kind,
        }
        for letter, again, wording, edit, quality in plan
    ]  # fmt: skip
