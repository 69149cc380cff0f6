"""Shoes (Guo et al., NeurIPS 2018) as composed retrieval reports it, not as its authors' dialogue: one turn, R@K.

Annotations: dataset/ of github.com/XiaoxiaoGuo/fashion-retrieval @9ac8b2c. Rules as in ARTEMIS (naver/artemis@f36f779
`evaluate.py`, `prepare_data/prepare_shoes_data.py`), which PAIR's `test.py` (ZhihFu/PAIR@f1cef93) shares: pairs whose
two pictures are in the evaluation list, among that list, the reference left out. The caption stays as it stands, where
these codes clean or spell it otherwise.
"""

from __future__ import annotations

from ..scoring.metrics import recall
from ..scoring.suite import Mean, Suite, Task, View
from .base import (
    Benchmark,
    BenchmarkFiles,
    Options,
    Places,
    composed_query,
    documents,
    positions_by_id,
    unique,
)

_CAPTIONS, _GALLERY = "relative captions", "evaluation list"
_PLACES = ("{folder}/0/{name}", "{folder}/1/{name}", "{folder}/{name}", "{name}")
_ROOTS = ("", "womens/", "attributedata/", "images/")
PICTURES = tuple(root + place for root in _ROOTS for place in _PLACES)
KS = (1, 10, 50)
_TARGET, _REFERENCE, _TEXT = "ImageName", "ReferenceImageName", "RelativeCaption"


def _files(split: str, options: Options) -> dict[str, Places]:
    captions, names = "relative_captions_shoes.json", "eval_im_names.txt"
    return {_CAPTIONS: (captions, f"dataset/{captions}"), _GALLERY: (names, f"dataset/{names}")}


def _build(files: BenchmarkFiles, split: str, options: Options) -> Suite:
    names = unique([line.strip() for line in files.lines(_GALLERY)], str(files.paths[_GALLERY]))
    place = positions_by_id(names)
    rows = files.rows(_CAPTIONS, {_TARGET: str, _REFERENCE: str, _TEXT: str})
    values = [{"name": name, "folder": name.removeprefix("img_").rpartition("_")[0]} for name in names]
    paths = files.pictures("gallery", PICTURES, values)
    queries, targets, exclude, ids = [], [], [], []
    for number, row in enumerate(rows):
        if row[_TARGET] not in place or row[_REFERENCE] not in place:
            continue  # a pair of the training list
        reference, target = place[row[_REFERENCE]], place[row[_TARGET]]
        ids.append(str(number))
        queries.append((composed_query(paths[reference], row[_TEXT]),))
        exclude.append((reference,))
        # one row has the reference for its target, which nobody can find: as in ARTEMIS it counts as missed
        targets.append((target,) if target != reference else ())
    metrics = recall(KS, single=True)
    task = Task(
        name="",
        gallery_ids=names,
        gallery=documents(paths),
        query_ids=ids,
        queries=queries,
        views=(View(metrics, targets, exclude=exclude),),
        found_at=("R@10",),
    )
    mean = Mean("mean of R@K", tuple(metric.name for metric in metrics))
    return Suite("shoes", split, options, (task,), (mean,), (), _protocol())


def _protocol() -> dict[str, str]:
    return {
        "gallery": "all pictures of eval_im_names.txt, in its order",
        "query text": "RelativeCaption as it stands",
        "excluded": "the reference picture of each query; a row whose target is its reference counts as missed",
        "R@K": "the target among the first K; the mean is over the three",
        "differs": "the captions are not cleaned or spelt otherwise, as ARTEMIS' vocabulary and PAIR's list do",
        "equals": "ARTEMIS f36f779 evaluate.py, PAIR f1cef93 test.py",
    }


SHOES = Benchmark(
    name="shoes",
    about="Shoes: 1,761 queries, 4,658 pictures, one turn; captions as they stand, not cleaned as by ARTEMIS or PAIR",
    splits=("eval",),
    options={},
    files=_files,
    build=_build,
    folders=("", "shoes", "Shoes"),
    annotations="github.com/XiaoxiaoGuo/fashion-retrieval, folder dataset/",
    pictures="the Attribute Discovery Dataset, tamaraberg.com/attributesDataset, as womens_<kind>/<0 or 1>/img_...jpg",
    sizes="eval: 1,761 queries, 4,658 pictures",
    rule="R@1, 10, 50 and their mean; the reference is left out; equals ARTEMIS@f36f779, PAIR@f1cef93",
)
