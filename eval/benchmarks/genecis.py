"""GeneCIS (Vaze et al., CVPR 2023): one word says what to focus on or to change; every query has a small gallery.

Annotations: github.com/facebookresearch/genecis. Rules as in its `eval_functions.py` and `datasets/`: recall@1, 2, 3
among the target and its distractors (14 in the object tasks), mean of the four tasks. Its data loader puts the target
first, so that a constant embedding scores 100 there; here ties go by picture id.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from mllm_embed.errors import DataError, ImageError
from mllm_embed.inputs.images import load_image
from mllm_embed.types import Document, ImageLike

from ..scoring.metrics import recall
from ..scoring.suite import Mean, Suite, Task, View
from .base import Benchmark, BenchmarkFiles, Options, ask

TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
KS = (1, 2, 3)
_DILATE = 0.7
# The condition is a bare word ("color", "bus"), which no model has been told what to do with: prompts of our own.
PROMPTS = {
    "focus": {"composed": "Describe this image focusing on its {instruction} in one word:"},
    "change": {"composed": 'Modify this image with "same but {instruction}", describe modified image in one word:'},
}
_KEYS = {"object": ("val_image_id",), "attribute": ("image_id", "instance_bbox")}


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
        """The square. Raises ImageError for a picture that cannot be read, or has nothing of the box."""
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


def _chosen(options: Options) -> tuple[str, ...]:
    return TASKS if options["task"] == "all" else (options["task"],)


def _files(split: str, options: Options) -> dict[str, tuple[str, ...]]:
    return {name: (f"genecis/{name}.json", f"{name}.json") for name in _chosen(options)}


def _build(source: BenchmarkFiles, split: str, options: Options) -> Suite:
    tasks = tuple(_task(source, name) for name in _chosen(options))
    means = (Mean("mean R@1", tuple(f"{name}/R@1" for name in TASKS)),) if len(tasks) == len(TASKS) else ()
    protocol = {
        "gallery": "for each query its target and distractors; equal scores by picture id, not target first",
        "query text": "the condition, a bare word, in prompts of our own",
        "excluded": "nothing: the reference is no candidate",
        "R@K": "the target among the first K; the mean is over the four tasks' R@1",
        "pictures": "attribute tasks: the instance, dilated and padded as GeneCIS does",
        "equals": "genecis 0c5c968 eval_functions.py",
        "leaks": "a model trained on COCO or Visual Genome is not zero-shot here",
    }
    return Suite("genecis", split, options, tasks, means, ("R@1",), protocol)


def _task(source: BenchmarkFiles, name: str) -> Task:
    rows, file = source.rows(name, condition=str, reference=dict, target=dict, gallery=list), source.files[name]
    kind = name.rpartition("_")[2]
    where = [f"{file} row {number}" for number in range(len(rows))]
    candidates = [
        [_key(entry, kind, at) for entry in (row["target"], *row["gallery"])]
        for row, at in zip(rows, where, strict=True)
    ]
    references = [_key(row["reference"], kind, at) for row, at in zip(rows, where, strict=True)]
    keys = sorted({key for row in candidates for key in row})
    place = {key: position for position, key in enumerate(keys)}
    wanted = sorted({*keys, *references})
    pictures = dict(zip(wanted, _pictures(source, name, kind, wanted), strict=True))
    indexed = [tuple(place[key] for key in row) for row in candidates]
    return Task(
        name=name,
        gallery_ids=[_id(key) for key in keys],
        gallery=[Document(image=pictures[key]) for key in keys],
        query_ids=[str(number) for number in range(len(rows))],
        queries=[(ask(pictures[key], row["condition"]),) for row, key in zip(rows, references, strict=True)],
        views=(View(recall(KS), [row[:1] for row in indexed], candidates=indexed),),
        prompts=PROMPTS[name.partition("_")[0]],
    )


def _key(entry: Any, kind: str, where: str) -> tuple[int | float, ...]:
    """What tells one picture or crop from another: its number, and the box of a crop."""
    try:
        number, *box = (entry[key] for key in _KEYS[kind])
        key = (int(number), *(float(value) for value in (box[0] if box else ())))
        if len(key) != 1 + 4 * len(box):
            raise ValueError("a box is x, y, width and height")
        return key
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{where}: a picture must have {' and '.join(_KEYS[kind])}, a box four numbers; fetch the file again"
        ) from error


def _id(key: tuple[int | float, ...]) -> str:
    number, *box = key
    return f"{number}:{','.join(f'{value:.12g}' for value in box)}" if box else str(number)


def _pictures(source: BenchmarkFiles, name: str, kind: str, keys: list[tuple[int | float, ...]]) -> list[ImageLike]:
    if kind == "object":
        places = ("val2017/{coco}", "coco/val2017/{coco}", "coco/images/val2017/{coco}", "{coco}")
    else:
        folders = ("VG_All", "VG_100K", "VG_100K_2", "vg/VG_100K", "vg/VG_100K_2", "VG/VG_100K", "VG/VG_100K_2", ".")
        places = tuple(f"{folder}/{{number}}.jpg" for folder in folders)
    names = [{"coco": f"{key[0]:012d}.jpg", "number": str(key[0])} for key in keys]
    paths = source.pictures(name, places, names)
    return [Crop(path, tuple(key[1:])) if kind == "attribute" else path for path, key in zip(paths, keys, strict=True)]


GENECIS = Benchmark(
    name="genecis",
    about="GeneCIS: four tasks of about 2,000 queries, each with its own gallery of 10 to 15",
    splits=("",),
    options={"task": ("all", *TASKS)},
    files=_files,
    build=_build,
    folders=("", "genecis", "GeneCIS"),
    annotations="github.com/facebookresearch/genecis, folder genecis/",
    pictures="COCO val2017 (cocodataset.org) for the object tasks, Visual Genome (VG_100K, VG_100K_2) for the others",
)
