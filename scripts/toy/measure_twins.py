"""Tell pictures that were saved again from pictures that were edited: how often `near_twins` is right on scenes.

    PYTHONPATH=scripts python scripts/toy/measure_twins.py

Each scene is saved as PNG and as JPEG of several qualities, each of its edits as JPEG, since that is how edits lie
beside one another. Prints, for each kind, the largest or least difference of a block, and how many count as one.
"""

from __future__ import annotations

import io
import random
from pathlib import Path

from PIL import Image

from mllm_embed.training.false_negatives.near_twins import difference, same_picture
from toy.scenes import KINDS, Painter, sample_edit, sample_scene

SCENES, QUALITIES = 500, (50, 60, 75, 85, 95)
SPRITES = Path(__file__).parents[1] / "assets" / "sprites"


def saved(picture: Image.Image, quality: int) -> Image.Image:
    """Return a picture as it is read from a JPEG of a quality."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def main() -> None:
    """Print the table."""
    rng, painter = random.Random(11), Painter(SPRITES)
    found: dict[str, list[tuple[tuple[int, int], bool]]] = {}
    for _ in range(SCENES):
        scene = sample_scene(rng, painter.nouns, rng.choice((2, 2, 3)))
        picture = painter.paint(scene)
        pairs = [(f"JPEG {quality}", saved(picture, quality)) for quality in QUALITIES]
        edits = [(kind, sample_edit(rng, scene, painter.nouns, kind)) for kind in KINDS]
        pairs += [(kind, saved(painter.paint(edit.result), 92)) for kind, edit in edits if edit]
        for name, other in pairs:
            found.setdefault(name, []).append((difference(picture, other), same_picture(picture, other)))
    print("| picture beside it | pairs | lightness | colour | count as one |\n| --- | --- | --- | --- | --- |")
    for name, entries in found.items():
        # of twins the largest difference, of edits the least that there is
        most = max if name.startswith("JPEG") else min
        light, colour = (most(entry[0][part] for entry in entries) for part in (0, 1))
        print(f"| {name} | {len(entries)} | {light} | {colour} | {sum(same for _, same in entries)} |")


if __name__ == "__main__":
    main()
