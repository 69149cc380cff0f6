"""CIRCO (Baldrati et al., ICCV 2023): COCO's unlabelled pictures, several right answers a query.

Annotations: github.com/miccunifi/CIRCO. Rules as in its `src/evaluation.py`, the server's code: nothing is taken out of
the gallery, AP@K is divided by min(targets, K), recall counts the one target that the query was written for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError
from mllm_embed.types import Query

from ..scoring.metrics import mean_average_precision, recall
from ..scoring.suite import Suite, Task, View
from .base import (
    Benchmark,
    BenchmarkFiles,
    Options,
    Places,
    composed_query,
    documents,
    position_of,
    positions_by_id,
    positions_of,
    unique,
)

_QUERIES, GALLERY = "annotations", "image list of COCO 2017 unlabeled"
KS = (5, 10, 25, 50)
# MagicLens and MegaPairs also tell the model what reference and target share; it helps a lot, so results say it.
TEXTS = {
    "relative": "{relative_caption}",
    "magiclens": "find {shared_concept} but {relative_caption}",
    "megapairs": "Find a picture that also {shared_concept}, but {relative_caption}.",
}
_TYPES: dict[str, type] = {"id": int, "reference_img_id": int, "relative_caption": str, "shared_concept": str}
_LABELS: dict[str, type] = {"target_img_id": int, "gt_img_ids": list, "semantic_aspects": list}
_PICTURES = ("COCO2017_unlabeled/unlabeled2017/{file}", "unlabeled2017/{file}", "{file}")


_LISTING = "annotations/image_info_unlabeled2017.json"
GALLERY_PLACES = (f"COCO2017_unlabeled/{_LISTING}", _LISTING, f"coco/{_LISTING}", "image_info_unlabeled2017.json")


def _files(split: str, options: Options) -> dict[str, Places]:
    return {_QUERIES: (f"annotations/{split}.json", f"{split}.json"), GALLERY: GALLERY_PLACES}


def _build(files: BenchmarkFiles, split: str, options: Options) -> Suite:
    labelled, text = split == "val", TEXTS[options["text"]]
    rows = files.rows(_QUERIES, {**_TYPES, **_LABELS} if labelled else _TYPES)
    ids, paths = gallery(files)
    place = positions_by_id(ids)
    task = Task(
        name="",
        gallery_ids=ids,
        gallery=documents(paths),
        query_ids=unique([str(row["id"]) for row in rows], str(files.paths[_QUERIES])),
        queries=_queries(files, rows, place, paths, text),
        views=_views(files, rows, place) if labelled else (View((), [()] * len(rows)),),
        groups=[tuple(row["semantic_aspects"]) for row in rows] if labelled else (),
        by_group=("mAP@10",) if labelled else (),
        # of the one target, as its recall is; 5 is where its tables start, 10 is CIRCUS' K
        found_at=("R@5", "R@10"),
    )
    return Suite("circo", split, options, (task,), (), tuple(f"mAP@{k}" for k in KS), _protocol(text))


def gallery(files: BenchmarkFiles) -> tuple[list[str], list[Path]]:
    """Return COCO's ids of the gallery and the paths of its pictures, in its order."""
    numbers = [image["id"] for image in files.rows(GALLERY, {"id": int}, under="images")]
    ids = unique(list(map(str, numbers)), str(files.paths[GALLERY]))
    return ids, files.pictures("gallery", _PICTURES, [{"file": f"{number:012d}.jpg"} for number in numbers])


def _queries(
    files: BenchmarkFiles, rows: list[dict[str, Any]], place: dict[str, int], paths: list[Path], text: str
) -> list[tuple[Query]]:
    queries = []
    for row in rows:
        reference = position_of(place, str(row["reference_img_id"]), _where(files, row))
        queries.append((composed_query(paths[reference], text.format_map(row)),))
    return queries


def _protocol(text: str) -> dict[str, str]:
    return {
        "gallery": "COCO 2017 unlabeled, in the order of image_info_unlabeled2017.json",
        "query text": text,
        "excluded": "nothing: the reference picture stays in the gallery",
        "mAP@K": "precisions at the ground truths among the first K, summed and divided by min(ground truths, K)",
        "R@K": "target_img_id, the one target that the query was written for, among the first K",
        "equals": "CIRCO 267b5c9 src/evaluation.py",
        "leaks": "a model trained on COCO's pictures or captions is not zero-shot here",
    }


def _views(files: BenchmarkFiles, rows: list[dict[str, Any]], place: dict[str, int]) -> tuple[View, ...]:
    truths, targets = [], []
    for row in rows:
        where = _where(files, row)
        truths.append(_ground_truths(place, row, where))
        targets.append((position_of(place, str(row["target_img_id"]), where),))
    # The first view is the headline, and its ground truths are framed on the contact sheet.
    return View(mean_average_precision(KS), truths), View(recall(KS), targets)


def _ground_truths(place: dict[str, int], row: dict[str, Any], where: str) -> tuple[int, ...]:
    """Return the ground truths of a query, at least one, each once. Raise DataError, also for aspects without words."""
    if not row["gt_img_ids"] or not all(isinstance(aspect, str) for aspect in row["semantic_aspects"]):
        raise DataError(f'{where}: "gt_img_ids" is empty, or "semantic_aspects" are no words; fetch the file again')
    return positions_of(place, unique([str(number) for number in row["gt_img_ids"]], where), where)


def _where(files: BenchmarkFiles, row: dict[str, Any]) -> str:
    return f"{files.paths[_QUERIES]} query {row['id']}"


CIRCO = Benchmark(
    name="circo",
    about="CIRCO: 123,403 pictures, 220 queries (val) or 800 (test, goes to the server)",
    sizes="val: 220 queries, test: 800, labels on the server; 123,403 pictures",
    rule="mAP@K by min(targets, K), R@K of the one target, mAP@10 by semantic aspect; the reference stays in; equals "
    "the server's code",
    splits=("val", "test"),
    options={"text": tuple(TEXTS)},
    files=_files,
    build=_build,
    folders=("", "circo", "CIRCO"),
    annotations="github.com/miccunifi/CIRCO, and image_info_unlabeled2017.json from cocodataset.org",
    pictures="COCO 2017 unlabeled (unlabeled2017.zip, 19 GB) from cocodataset.org",
)
