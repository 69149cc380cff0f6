"""Flickr30k and COCO text-image retrieval on Karpathy's test split, five captions a picture.

Files: dataset_flickr30k.json and dataset_coco.json of Karpathy and Fei-Fei (CVPR 2015). Rules as E5-V's `retrieval.py`:
the first five captions of each picture; text to image has one target; image to text hits with any of the five.
"""

from __future__ import annotations

from typing import Any

from mllm_embed.errors import DataError
from mllm_embed.types import Document, Query

from ..scoring.metrics import recall
from ..scoring.suite import Suite, Task, View
from .base import Benchmark, BenchmarkFiles, Options, Places, unique

_SPLITS = "Karpathy's splits"
KS = (1, 5, 10)
CAPTIONS = 5


def _benchmark(name: str, about: str, sizes: str, folders: Places, patterns: Places, pictures: str) -> Benchmark:
    def places(split: str, options: Options) -> dict[str, Places]:
        return {_SPLITS: (f"dataset_{name}.json", f"annotations/dataset_{name}.json", f"karpathy/dataset_{name}.json")}

    def build(files: BenchmarkFiles, split: str, options: Options) -> Suite:
        return _build(files, split, options, patterns)

    return Benchmark(
        name=name,
        about=about,
        sizes=sizes,
        rule="R@1, 5, 10 in both directions, the first five captions of a picture; equals E5-V",
        splits=("test", "val"),
        options={},
        files=places,
        build=build,
        folders=folders,
        annotations="cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
        pictures=pictures,
    )


def _build(files: BenchmarkFiles, split: str, options: Options, patterns: Places) -> Suite:
    file, rows = str(files.paths[_SPLITS]), _rows(files, split)
    names = unique([row["filename"] for row in rows], file)
    texts = [_captions(row, file) for row in rows]
    values = [{"name": row["filename"], "folder": row.get("filepath") or "."} for row in rows]
    paths = files.pictures(split, patterns, values)
    # Every caption is a query for its picture, and an answer to it: `owners` and `own` are the two directions.
    sentences, owners, own = [], [], []
    ids: list[str] = []
    for position, (name, captions) in enumerate(zip(names, texts, strict=True)):
        own.append(range(len(ids), len(ids) + len(captions)))
        for number, text in enumerate(captions):
            sentences.append(text)
            ids.append(f"{name}#{number}")
            owners.append((position,))
    metrics = recall(KS, single=True)
    asking, answers = [(Query(text=text),) for text in sentences], [Document(text=text) for text in sentences]
    shown, pictures = [(Query(image=path),) for path in paths], [Document(image=path) for path in paths]
    tasks = (
        Task("text-to-image", names, pictures, ids, asking, (View(metrics, owners),)),
        Task("image-to-text", ids, answers, names, shown, (View(metrics, own),)),
    )
    return Suite(files.benchmark.name, split, options, tasks, (), (), _protocol(split))


def _protocol(split: str) -> dict[str, str]:
    return {
        "gallery": f"all pictures (or their captions) of Karpathy's {split} split, in its order",
        "query text": f"each of the first {CAPTIONS} captions, as it stands",
        "excluded": "nothing",
        "R@K": "text to image: the caption's picture; image to text: any of the picture's captions",
        "equals": "E5-V bcefe73 retrieval.py",
        "leaks": "COCO and Flickr30k captions are in many training sets",
    }


def _rows(files: BenchmarkFiles, split: str) -> list[dict[str, Any]]:
    """Return the pictures of a split. Raise DataError where there are none."""
    types: dict[str, type] = {"split": str, "filename": str, "sentences": list}
    rows = [row for row in files.rows(_SPLITS, types, under="images") if row["split"] == split]
    if not rows:
        raise DataError(f'{files.paths[_SPLITS]} has no pictures of the split "{split}"')
    return rows


def _captions(row: dict[str, Any], file: str) -> list[str]:
    """Return the first captions of a picture. Raise DataError for one that is empty, or none."""
    try:
        captions = [sentence["raw"].strip() for sentence in row["sentences"]][:CAPTIONS]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{file}: a sentence of {row["filename"]} has no text "raw"; fetch the file again') from error
    if not captions or not all(captions):
        raise DataError(f"{file}: {row['filename']} has an empty caption, or none; mend or remove the row")
    return captions


FLICKR30K = _benchmark(
    "flickr30k",
    "Flickr30k: text to image and image to text, Karpathy's split",
    "the pictures of the split, five captions each",
    ("", "flickr30k", "Flickr30k"),
    ("flickr30k-images/{name}", "images/{name}", "{name}"),
    "shannon.cs.illinois.edu/DenotationGraph, as flickr30k-images/<name>",
)
COCO = _benchmark(
    "coco",
    "COCO captions: text to image and image to text, Karpathy's split",
    "the pictures of the split, five captions each",
    ("", "coco", "COCO"),
    ("{folder}/{name}", "images/{folder}/{name}", "images/{name}", "{name}"),
    "COCO 2014 validation pictures (val2014.zip) from cocodataset.org",
)
