"""CIRR (Cuberick-Orion/CIRR): instructions between two of NLVR2's pictures, each in a set of six look-alikes.

captions/cap.rc2.train.json              [{"pairid": 12060, "reference": "dev-244-0-img0",
                                           "target_hard": "dev-1028-1-img1", "target_soft": {NAME: score},
                                           "caption": "show three bottles", "img_set": {"members": [NAME, ...]}}]
image_splits/split.rc2.train.json        {NAME: "./train/34/NAME.png"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError
from mllm_embed.files import read_json

from .format import ALSO_IMAGE, Format, Values

_SPLIT = "CIRR's image_splits/split.rc2.train.json lists where each picture lies; give it as pool"
_RIGHT = 1.0  # of target_soft: as right as the target; less where people were not sure, -1 where it is wrong


def _split_of(captions: Path) -> Path:
    """Return the split that belongs to a file of captions."""
    return captions.parent.parent / "image_splits" / captions.name.replace("cap.", "split.", 1).replace(".ext.", ".")


def _scores(judged: Any) -> Mapping[str, Any]:
    """Return what was judged beside the target: names and scores, or names alone."""
    return judged if isinstance(judged, Mapping) else dict.fromkeys(judged or ())


class _Split:
    """Names of pictures -> their places below the folder of pictures. Raises DataError for a file that is none."""

    def __init__(self, path: Path):
        self.path, self.places = path, read_json(path, _SPLIT)
        if not isinstance(self.places, dict):
            raise DataError(f"{path} is not an object of names and paths: {_SPLIT}")

    def __call__(self, values: Values) -> Values:
        """Return the values with places for names; the rest of the six look-alikes are hard negatives.

        What was judged beside the target is none: it may be right as well, and what was found as good as the target is.
        """
        alike, scores = values["negative_image"] or [], _scores(values.get("judged"))
        own = values["image"], values["target_image"]  # a few rows call the reference right by a slip
        judged = {*own, *scores}
        right = [name for name, score in scores.items() if score == _RIGHT and name not in own]
        return values | {
            ALSO_IMAGE: [self._place(name) for name in right],
            "image": self._place(values["image"]),
            "target_image": self._place(values["target_image"]),
            "negative_image": [self._place(name) for name in alike if name not in judged],
        }

    def _place(self, name: Any) -> Any:
        if not isinstance(name, str) or name not in self.places:
            raise DataError(f"the picture {json.dumps(name)} is not in {self.path}")
        return self.places[name]


CIRR = Format(
    description="captions/cap.rc2.train.json, with image_splits/split.rc2.train.json beside it",
    columns={
        "id": "pairid",
        "image": "reference",
        "instruction": "caption",
        "target_image": "target_hard",
        "negative_image": "img_set.members",
        "judged": "target_soft",
    },
    kinds=("triplets",),
    optional=frozenset({"id", "negative_image", "judged"}),
    pool=_split_of,
    join=_Split,
    hint="images is the folder that holds train/ and dev/",
)
