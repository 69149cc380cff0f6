"""LaSCo (Levy et al., AAAI 2024), which has no public scorer to be equal to: recall over its corpus, reference kept in.

Annotations: downloads/lasco_val.json and lasco_val_corpus.json of github.com/levymsn/LaSCo @311f4d7. The corpus was
read; the file of the queries, too large for the copy at hand, was not: its format is that of the repository's README.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError

from ..scoring.metrics import recall
from ..scoring.suite import Suite, Task, View
from .base import (
    Benchmark,
    BenchmarkFiles,
    Options,
    Places,
    composed_query,
    distinct,
    documents,
    position_of,
    positions_by_id,
    unique,
)

_QUERIES, _GALLERY = "queries", "corpus"
_TYPES: dict[str, type] = {"qid": int, "query-image": list, "query-text": str, "target-image": list}
_PICTURES = ("{folder}/{file}", "images/{folder}/{file}", "val/{folder}/{file}", "coco/{folder}/{file}", "{file}")
KS = (1, 5, 10, 50, 100)


def _files(split: str, options: Options) -> dict[str, Places]:
    return {
        _QUERIES: (f"lasco_{split}.json", f"downloads/lasco_{split}.json"),
        _GALLERY: (f"lasco_{split}_corpus.json", f"downloads/lasco_{split}_corpus.json"),
    }


def _build(files: BenchmarkFiles, split: str, options: Options) -> Suite:
    corpus = files.rows(_GALLERY, {"id": int, "path": str})
    ids = unique([str(row["id"]) for row in corpus], str(files.paths[_GALLERY]))
    place = positions_by_id(ids)
    rows = files.rows(_QUERIES, _TYPES)
    targets, references = [], []
    for number, row in enumerate(rows):
        where = f"{files.paths[_QUERIES]} row {number}"
        targets.append((position_of(place, _picture(row, "target-image", where)[0], where),))
        references.append(_picture(row, "query-image", where)[1])
    asked = _pictures(files, "query", references)
    task = Task(
        name="",
        gallery_ids=ids,
        gallery=documents(_pictures(files, "corpus", [row["path"] for row in corpus])),
        query_ids=distinct(str(row["qid"]) for row in rows),
        queries=[(composed_query(path, row["query-text"]),) for path, row in zip(asked, rows, strict=True)],
        views=(View(recall(KS), targets),),
        found_at=("R@10",),
    )
    return Suite("lasco", split, options, (task,), (), (), _protocol(split))


def _protocol(split: str) -> dict[str, str]:
    return {
        "gallery": f"all pictures of lasco_{split}_corpus.json, in its order",
        "query text": "query-text as it stands",
        "excluded": "nothing: the reference picture stays in the gallery",
        "R@K": "target-image among the first K",
        "differs": "the authors have published no scorer, so that it is not known whether they leave the reference out",
        "leaks": "a model trained on COCO's pictures, captions or VQA 2.0 is not zero-shot here",
    }


def _picture(row: dict[str, Any], key: str, where: str) -> tuple[str, str]:
    """Return the id and the path of a picture. Raise DataError for anything but a number and a path."""
    value = row[key]
    if len(value) != 2 or type(value[0]) is not int or not isinstance(value[1], str):
        raise DataError(f'{where}: "{key}" must be a number and a path; fetch the file again')
    return str(value[0]), value[1]


def _pictures(files: BenchmarkFiles, what: str, paths: list[str]) -> list[Path]:
    # the corpus writes val/val2014/<file> where the queries write val2014/<file>
    return files.pictures(
        what, _PICTURES, [{"folder": Path(path).parent.name, "file": Path(path).name} for path in paths]
    )


LASCO = Benchmark(
    name="lasco",
    about="LaSCo: R@K over 39,826 pictures of COCO; the reference stays in, no official scorer being public",
    splits=("val",),
    options={},
    files=_files,
    build=_build,
    folders=("", "lasco", "LaSCo"),
    annotations="github.com/levymsn/LaSCo, folder downloads/: lasco_val.json and lasco_val_corpus.json",
    pictures="COCO 2014 validation pictures (val2014.zip) from cocodataset.org, as val2014/<file>",
    sizes="val: 39,826 pictures; the number of queries stands in lasco_val.json",
    rule="R@1, 5, 10, 50, 100 of the one target; the reference stays in; nothing to be equal to is public",
)
