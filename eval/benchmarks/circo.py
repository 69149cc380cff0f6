"""CIRCO (Baldrati et al., ICCV 2023): COCO's unlabelled pictures, several right answers a query.

Annotations: github.com/miccunifi/CIRCO. Rules as in its `src/evaluation.py`, the server's code: nothing is taken out of
the gallery, AP@K is divided by min(targets, K), recall counts the one target that the query was written for.
"""

from __future__ import annotations

from typing import Any

from mllm_embed.errors import DataError
from mllm_embed.types import Document

from ..scoring.metrics import mean_average_precision, recall
from ..scoring.suite import Suite, Task, View
from .base import Benchmark, BenchmarkFiles, Options, ask, positions_of, unique

_QUERIES, _GALLERY = "annotations", "image list of COCO 2017 unlabeled"
KS = (5, 10, 25, 50)
# MagicLens and MegaPairs also tell the model what reference and target share; it helps a lot, so results say it.
TEXTS = {
    "relative": "{relative_caption}",
    "magiclens": "find {shared_concept} but {relative_caption}",
    "megapairs": "Find a picture that also {shared_concept}, but {relative_caption}.",
}


def _files(split: str, options: Options) -> dict[str, tuple[str, ...]]:
    listing = "annotations/image_info_unlabeled2017.json"
    return {
        _QUERIES: (f"annotations/{split}.json", f"{split}.json"),
        _GALLERY: (f"COCO2017_unlabeled/{listing}", listing, f"coco/{listing}", "image_info_unlabeled2017.json"),
    }


def _build(source: BenchmarkFiles, split: str, options: Options) -> Suite:
    labelled = split == "val"
    types: dict[str, type] = {"id": int, "reference_img_id": int, "relative_caption": str, "shared_concept": str}
    more: dict[str, type] = {"target_img_id": int, "gt_img_ids": list, "semantic_aspects": list} if labelled else {}
    rows = source.rows(_QUERIES, **types, **more)
    numbers = [image["id"] for image in source.rows(_GALLERY, under="images", id=int)]
    ids = unique([str(number) for number in numbers], str(source.files[_GALLERY]))
    place = {name: position for position, name in enumerate(ids)}
    paths = source.pictures(
        "gallery",
        tuple(f"{folder}{{file}}" for folder in ("COCO2017_unlabeled/unlabeled2017/", "unlabeled2017/", "")),
        [{"file": f"{number:012d}.jpg"} for number in numbers],
    )
    where = [f"{source.files[_QUERIES]} query {row['id']}" for row in rows]
    references = [
        positions_of(place, [str(row["reference_img_id"])], at)[0] for row, at in zip(rows, where, strict=True)
    ]
    text = TEXTS[options["text"]]
    right = [_right(place, row, at) if labelled else () for row, at in zip(rows, where, strict=True)]
    views: tuple[View, ...] = (View((), right),)
    if labelled:
        single = [positions_of(place, [str(row["target_img_id"])], at) for row, at in zip(rows, where, strict=True)]
        views = View(mean_average_precision(KS), right), View(recall(KS), single)
    task = Task(
        name="",
        gallery_ids=ids,
        gallery=[Document(image=path) for path in paths],
        query_ids=unique([str(row["id"]) for row in rows], str(source.files[_QUERIES])),
        queries=[(ask(paths[at], text.format_map(row)),) for row, at in zip(rows, references, strict=True)],
        views=views,
        groups=[tuple(row["semantic_aspects"]) for row in rows] if labelled else (),
        by_group=("mAP@10",) if labelled else (),
    )
    protocol = {
        "gallery": "COCO 2017 unlabeled, in the order of image_info_unlabeled2017.json",
        "query text": text,
        "excluded": "nothing: the reference picture stays in the gallery",
        "mAP@K": "precisions at the ground truths among the first K, summed and divided by min(ground truths, K)",
        "R@K": "target_img_id, the one target that the query was written for, among the first K",
        "equals": "CIRCO 267b5c9 src/evaluation.py",
        "leaks": "a model trained on COCO's pictures or captions is not zero-shot here",
    }
    return Suite("circo", split, options, (task,), (), tuple(f"mAP@{k}" for k in KS), protocol)


def _right(place: dict[str, int], row: dict[str, Any], where: str) -> tuple[int, ...]:
    """The ground truths of a query, at least one, each once; and its aspects are words."""
    if not row["gt_img_ids"] or not all(isinstance(aspect, str) for aspect in row["semantic_aspects"]):
        raise DataError(f'{where}: "gt_img_ids" is empty, or "semantic_aspects" are no words; fetch the file again')
    return positions_of(place, unique([str(number) for number in row["gt_img_ids"]], where), where)


CIRCO = Benchmark(
    name="circo",
    about="CIRCO: 123,403 pictures, 220 queries (val) or 800 (test, goes to the server)",
    splits=("val", "test"),
    options={"text": tuple(TEXTS)},
    files=_files,
    build=_build,
    folders=("", "circo", "CIRCO"),
    annotations="github.com/miccunifi/CIRCO, and image_info_unlabeled2017.json from cocodataset.org",
    pictures="COCO 2017 unlabeled (unlabeled2017.zip, 19 GB) from cocodataset.org",
)
