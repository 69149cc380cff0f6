"""Flickr30k and COCO text-image retrieval on Karpathy's test split, five captions a picture.

Files: dataset_flickr30k.json and dataset_coco.json of Karpathy and Fei-Fei (CVPR 2015). Rules as E5-V's `retrieval.py`:
the first five captions of each picture; text to image has one target; image to text hits with any of the five.
"""

from __future__ import annotations

import itertools
from typing import Any

from mllm_embed.errors import DataError
from mllm_embed.types import Document

from ..scoring.metrics import recall
from ..scoring.suite import Suite, Task, View
from .base import Benchmark, BenchmarkFiles, Options, unique

_SPLITS = "Karpathy's splits"
KS = (1, 5, 10)
CAPTIONS = 5


def _benchmark(name: str, about: str, folders: tuple[str, ...], patterns: tuple[str, ...], pictures: str) -> Benchmark:
    def files(split: str, options: Options) -> dict[str, tuple[str, ...]]:
        return {_SPLITS: (f"dataset_{name}.json", f"annotations/dataset_{name}.json", f"karpathy/dataset_{name}.json")}

    def build(source: BenchmarkFiles, split: str, options: Options) -> Suite:
        return _build(source, split, options, patterns)

    return Benchmark(
        name=name,
        about=about,
        splits=("test", "val"),
        options={},
        files=files,
        build=build,
        folders=folders,
        annotations="cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
        pictures=pictures,
    )


def _build(source: BenchmarkFiles, split: str, options: Options, patterns: tuple[str, ...]) -> Suite:
    file, images = source.files[_SPLITS], source.rows(_SPLITS, "images", split=str, filename=str, sentences=list)
    rows = [row for row in images if row["split"] == split]
    if not rows:
        raise DataError(f'{file} has no pictures of the split "{split}"')
    names = unique([row["filename"] for row in rows], str(file))
    folders = [row.get("filepath") or "." for row in rows]
    texts = [_captions(row, str(file)) for row in rows]
    paths = source.pictures(
        split, patterns, [{"name": name, "folder": folder} for name, folder in zip(names, folders, strict=True)]
    )
    pictures = [Document(image=path) for path in paths]
    sentences = [Document(text=text) for captions in texts for text in captions]
    owners = [position for position, captions in enumerate(texts) for _ in captions]
    ids = [f"{name}#{number}" for name, captions in zip(names, texts, strict=True) for number in range(len(captions))]
    starts = itertools.accumulate([len(captions) for captions in texts], initial=0)
    of_picture = [range(start, start + len(captions)) for start, captions in zip(starts, texts, strict=False)]
    asked, shown = [(sentence,) for sentence in sentences], [(picture,) for picture in pictures]
    metrics = recall(KS, single=True)
    tasks = (
        Task("text-to-image", names, pictures, ids, asked, (View(metrics, [(owner,) for owner in owners]),)),
        Task("image-to-text", ids, sentences, names, shown, (View(metrics, of_picture),)),
    )
    protocol = {
        "gallery": f"all pictures (or their captions) of Karpathy's {split} split, in its order",
        "query text": f"each of the first {CAPTIONS} captions, as it stands",
        "excluded": "nothing",
        "R@K": "text to image: the caption's picture; image to text: any of the picture's captions",
        "equals": "E5-V bcefe73 retrieval.py",
        "leaks": "COCO and Flickr30k captions are in many training sets",
    }
    return Suite(source.benchmark.name, split, options, tasks, (), (), protocol)


def _captions(row: dict[str, Any], file: str) -> list[str]:
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
    ("", "flickr30k", "Flickr30k"),
    ("flickr30k-images/{name}", "images/{name}", "{name}"),
    "shannon.cs.illinois.edu/DenotationGraph, as flickr30k-images/<name>",
)
COCO = _benchmark(
    "coco",
    "COCO captions: text to image and image to text, Karpathy's split",
    ("", "coco", "COCO"),
    ("{folder}/{name}", "images/{folder}/{name}", "images/{name}", "{name}"),
    "COCO 2014 validation pictures (val2014.zip) from cocodataset.org",
)
