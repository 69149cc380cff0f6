"""GeneCIS (Vaze et al., CVPR 2023): one word says what to focus on or to change; every query has a small gallery.

Annotations: github.com/facebookresearch/genecis. Rules as in its `eval_functions.py` and `datasets/`: recall@1, 2, 3
among the target and its distractors (14 in the object tasks), mean of the four tasks. Its data loader puts the target
first, so that a constant embedding scores 100 there; here ties go by picture id.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image, ImageOps

from mllm_embed.errors import DataError, ImageError
from mllm_embed.inputs.images import load_image
from mllm_embed.inputs.prompts import Slot
from mllm_embed.types import Document, ImageLike, Query

from ..scoring.metrics import recall
from ..scoring.suite import Mean, Suite, Task, View
from .base import (
    ALL_TASKS,
    Benchmark,
    BenchmarkFiles,
    Options,
    Places,
    chosen_tasks,
    composed_query,
)

TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
KS = (1, 2, 3)
_DILATE = 0.7
# The condition is a bare word ("color", "bus"), which no model has been told what to do with: words of our own, which
# take the place of InstructCIR's.
PROMPTS: dict[str, dict[Slot, str]] = {
    "focus": {"composed": "Describe this image focusing on its {instruction} in one word:"},
    "change": {"composed": 'Modify this image with "same but {instruction}", describe modified image in one word:'},
}
_KEYS = {"object": ("val_image_id",), "attribute": ("image_id", "instance_bbox")}
_GENOME = ("VG_All", "VG_100K", "VG_100K_2", "vg/VG_100K", "vg/VG_100K_2", "VG/VG_100K", "VG/VG_100K_2", ".")
PICTURES = {
    "object": ("val2017/{coco}", "coco/val2017/{coco}", "coco/images/val2017/{coco}", "{coco}"),
    "attribute": tuple(f"{folder}/{{number}}.jpg" for folder in _GENOME),
}
Key: TypeAlias = tuple[int | float, ...]


@dataclass(frozen=True)
class Crop:
    """An instance of Visual Genome as GeneCIS cuts it: `box` (x, y, width, height) dilated, padded to a black square.

    The corner moves out by 0.7 of the size and the far edge lies 1.7 sizes from the moved corner, as in
    `datasets/vaw_dataset.py`: not symmetric, and cut off at the picture's edge.
    """

    path: Path
    box: tuple[float, float, float, float]

    def __str__(self) -> str:
        return f"{self.path.stem}:{self.box}"

    def read(self) -> Image.Image:
        """Return the square. Raise ImageError for a picture that cannot be read, or has nothing of the box."""
        picture = load_image(self.path)
        x, y, width, height = self.box
        left, top = max(0, x - _DILATE * width), max(0, y - _DILATE * height)
        right = min(picture.width, left + (1 + _DILATE) * width)
        bottom = min(picture.height, top + (1 + _DILATE) * height)
        if round(right) <= round(left) or round(bottom) <= round(top):
            size = f"{picture.width} x {picture.height}"
            raise ImageError(f"{self.path} has {size} pixels, and nothing of the box {self.box}; fetch it again")
        crop = picture.crop((left, top, right, bottom))
        side = max(crop.size)
        across, down = (side - crop.width) // 2, (side - crop.height) // 2
        return ImageOps.expand(crop, (across, down, side - crop.width - across, side - crop.height - down), fill=0)


def _files(split: str, options: Options) -> dict[str, Places]:
    return {name: (f"genecis/{name}.json", f"{name}.json") for name in chosen_tasks(options, TASKS)}


def _build(files: BenchmarkFiles, split: str, options: Options) -> Suite:
    tasks = tuple(_task(files, name) for name in chosen_tasks(options, TASKS))
    means = (Mean("mean R@1", tuple(f"{name}/R@1" for name in TASKS)),) if len(tasks) == len(TASKS) else ()
    protocol = {
        "gallery": "for each query its target and distractors; equal scores by picture id, not target first",
        "query text": "the condition, a bare word",
        "excluded": "nothing: the reference is no candidate",
        "R@K": "the target among the first K; the mean is over the four tasks' R@1",
        "pictures": "attribute tasks: the instance, dilated and padded as GeneCIS does",
        "equals": "genecis 0c5c968 eval_functions.py",
        "leaks": "a model trained on COCO or Visual Genome is not zero-shot here",
    }
    return Suite("genecis", split, options, tasks, means, ("R@1",), protocol)


def _task(files: BenchmarkFiles, name: str) -> Task:
    rows = files.rows(name, {"condition": str, "reference": dict, "target": dict, "gallery": list})
    what, _, kind = name.partition("_")
    # the attribute tasks write the numbers of their pictures as texts; a file has one way of the two
    text = kind == "attribute" and isinstance(rows[0]["target"].get(_KEYS[kind][0]), str)
    references, candidates = [], []
    for number, row in enumerate(rows):
        where = f"{files.paths[name]} row {number}"
        candidates.append([_key(entry, kind, text, where) for entry in (row["target"], *row["gallery"])])
        references.append(_key(row["reference"], kind, text, where))
    # One gallery for all queries, each of which chooses among its candidates; sorted, so that ties go by picture id.
    keys = sorted(set().union(*candidates))
    place = {key: position for position, key in enumerate(keys)}
    positions = [tuple(map(place.__getitem__, row)) for row in candidates]
    pictures = _pictures(files, name, kind, sorted({*keys, *references}))
    queries: list[tuple[Query]] = []
    for row, key in zip(rows, references, strict=True):
        queries.append((composed_query(pictures[key], row["condition"]),))
    return Task(
        name=name,
        gallery_ids=[_id(key) for key in keys],
        gallery=[Document(image=pictures[key]) for key in keys],
        query_ids=list(map(str, range(len(rows)))),
        queries=queries,
        views=(View(recall(KS), [row[:1] for row in positions], candidates=positions),),
        prompts=PROMPTS[what],
        found_at=("R@1",),
    )


def _key(entry: Any, kind: str, text: bool, where: str) -> Key:
    """Return what tells one picture or crop from another: its number, which a text may hold, and the box of a crop."""
    try:
        name, *box = (entry[key] for key in _KEYS[kind])
        number, sides = _number(name, text), box[0] if box else []
        # strict in the number of values: a longer list would make another key of the same crop
        if number is None or len(sides) != 4 * len(box) or not all(map(_is_number, sides)):
            raise TypeError("a picture is a whole number, a box is x, y, width and height")
        return (number, *map(float, sides))
    except (KeyError, TypeError, OverflowError) as error:
        raise DataError(
            f"{where}: a picture must have {' and '.join(_KEYS[kind])}, a box four numbers; fetch the file again"
        ) from error


def _number(name: Any, text: bool) -> int | None:
    """Return the number of a picture, written as a text or as a number; None for anything else."""
    if text:
        return int(name) if isinstance(name, str) and name.isascii() and name.isdigit() else None
    return name if type(name) is int else None


def _is_number(value: Any) -> bool:
    """Tell whether a value of JSON is a number with a place on a picture: no text, no switch, not infinite."""
    return type(value) in (int, float) and math.isfinite(value)


def _id(key: Key) -> str:
    number, *box = key
    return f"{number}:{','.join(f'{value:.12g}' for value in box)}" if box else str(number)


def _pictures(files: BenchmarkFiles, name: str, kind: str, keys: list[Key]) -> dict[Key, ImageLike]:
    """Return the pictures or crops of a task by key."""
    values = [{"coco": f"{key[0]:012d}.jpg", "number": str(key[0])} for key in keys]
    paths = files.pictures(name, PICTURES[kind], values)
    if kind == "object":
        return dict(zip(keys, paths, strict=True))
    return {key: Crop(path, _box(key)) for key, path in zip(keys, paths, strict=True)}


def _box(key: Key) -> tuple[float, float, float, float]:
    _, x, y, width, height = key
    return x, y, width, height


GENECIS = Benchmark(
    name="genecis",
    about="GeneCIS: four tasks of about 2,000 queries, each with its own gallery of 10 to 15; ties by picture id",
    sizes="focus_attribute 2,000 queries with 10 candidates each, change_attribute 2,112 with 15, focus_object and "
    "change_object 1,960 with 15",
    rule="R@1, 2, 3, mean R@1; equals GeneCIS but for ties, which go by picture id and not to the target",
    splits=("",),
    options={"task": (ALL_TASKS, *TASKS)},
    files=_files,
    build=_build,
    folders=("", "genecis", "GeneCIS"),
    annotations="github.com/facebookresearch/genecis, folder genecis/",
    pictures="COCO val2017 (cocodataset.org) for the object tasks, Visual Genome (VG_100K, VG_100K_2) for the others",
)
