"""CIRR (Liu et al., ICCV 2021): real-life pictures of NLVR2, in sets of six.

Annotations: github.com/Cuberick-Orion/CIRR, branch cirr_dataset (rc2). Rules as in SEARLE's `src/validate.py`, which is
CLIP4Cir's: the reference is taken out, recall on `target_hard`, subset recall among the other five of the set. The soft
score is that of the authors' own code (CIRPLANT, OSCAR_CIRPLANT.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError

from ..scoring.metrics import recall, soft_recall
from ..scoring.suite import Mean, Suite, Task, View
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

_CAPTIONS, GALLERY = "captions", "image split"
_TYPES: dict[str, type] = {"pairid": int, "reference": str, "caption": str, "img_set": dict}
_LABELS: dict[str, type] = {"target_hard": str, "target_soft": dict}
_HIDDEN = "test1"
_SOFT = "soft"
_PICTURES = ("{path}", "img_raw/{path}", "{folder}/{name}.png")


def _files(split: str, options: Options) -> dict[str, Places]:
    return {
        _CAPTIONS: (f"captions/cap.rc2.{split}.json",),
        GALLERY: (f"image_splits/split.rc2.{split}.json",),
    }


def _build(files: BenchmarkFiles, split: str, options: Options) -> Suite:
    labelled = split != _HIDDEN
    rows = files.rows(_CAPTIONS, {**_TYPES, **_LABELS} if labelled else _TYPES)
    names, paths = gallery(files)
    place = positions_by_id(names)
    asked = [_read(row, place, f"{files.paths[_CAPTIONS]} pair {row['pairid']}", labelled) for row in rows]
    task = Task(
        name="",
        gallery_ids=names,
        gallery=documents(paths),
        query_ids=unique([str(row["pairid"]) for row in rows], str(files.paths[_CAPTIONS])),
        queries=[(composed_query(paths[query.reference], query.caption),) for query in asked],
        views=_views(asked) if labelled else _hidden_views(asked),
        # its authors rank by the mean of R@5 and Rsub@1; 10 is CIRCUS' K
        found_at=("R@5", "R@10"),
    )
    means = (Mean("(R@5 + Rsub@1) / 2", ("R@5", "Rsub@1")),) if labelled else ()
    return Suite("cirr", split, options, (task,), means, _printed(task.views), _protocol(split))


def _printed(views: tuple[View, ...]) -> tuple[str, ...]:
    """Return the metrics that papers print: all but the soft ones."""
    names = [metric.name for view in views for metric in view.metrics]
    return tuple(name for name in names if not name.startswith(_SOFT))


def _protocol(split: str) -> dict[str, str]:
    return {
        "gallery": f"all pictures of split.rc2.{split}.json, in its order",
        "query text": "the caption as it stands",
        "excluded": "the reference picture of each query",
        "R@K": "target_hard among the first K",
        "Rsub@K": "target_hard among the first K of the other five pictures of the reference's set",
        "soft": "largest value of target_soft among the first K, at least 0; the reference, which target_soft names in "
        "a few rows, cannot be reached, so that soft recall cannot be 100; two soft targets that score alike stand in "
        "gallery order under every tie rule",
        "equals": "SEARLE a9c314b src/validate.py; soft: CIRPLANT cd5798d OSCAR_CIRPLANT.py",
        "leaks": "pictures are NLVR2's; training sets such as MMEB and M-BEIR hold CIRR's training split",
    }


def gallery(files: BenchmarkFiles) -> tuple[list[str], list[Path]]:
    """Return the gallery's names and the paths of its pictures, in its order."""
    places = files.json(GALLERY)
    if not isinstance(places, dict) or not all(isinstance(path, str) and "/" in path for path in places.values()):
        raise DataError(f"{files.paths[GALLERY]} must be an object, name -> ./folder/name.png; fetch it again")
    values = [
        {"path": path.removeprefix("./"), "folder": path.split("/")[1], "name": name} for name, path in places.items()
    ]
    return list(places), files.pictures("gallery", _PICTURES, values)


@dataclass(frozen=True)
class _Query:
    """A row in gallery positions.

    Attributes:
        members: the other five of the reference's set.
        hard: `target_hard`; None where the labels are hidden.
        soft: `target_soft`, position -> value, without the reference, which cannot be found.
    """

    caption: str
    reference: int
    members: tuple[int, ...]
    hard: int | None
    soft: dict[int, float]


def _read(row: dict[str, Any], place: dict[str, int], where: str, labelled: bool) -> _Query:
    reference = position_of(place, row["reference"], where)
    # the set of six holds the reference, which is no candidate
    others = [name for name in _members(row, where) if name != row["reference"]]
    members = positions_of(place, others, where)
    if not labelled:
        return _Query(row["caption"], reference, members, None, {})
    hard = position_of(place, row["target_hard"], where)
    return _Query(row["caption"], reference, members, hard, _soft(row, place, where))


def _members(row: dict[str, Any], where: str) -> list[str]:
    members = row["img_set"].get("members")
    if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
        raise DataError(f'{where}: "img_set" has no list "members" of names; fetch the file again')
    # rows of the hidden split have no target, for which any member stands in
    if row.get("target_hard", members[0] if members else None) not in members:
        raise DataError(f'{where}: "target_hard" is not one of the "members" of "img_set"; fetch the file again')
    return members


def _soft(row: dict[str, Any], place: dict[str, int], where: str) -> dict[int, float]:
    gains = {name: value for name, value in row["target_soft"].items() if name != row["reference"]}
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in gains.values()):
        raise DataError(f'{where}: a value of "target_soft" is no number; fetch the file again')
    return dict(zip(positions_of(place, gains, where), map(float, gains.values()), strict=True))


def _hidden_views(asked: list[_Query]) -> tuple[View, ...]:
    """Return what takes part where the labels are on the server: the whole gallery, then the set."""
    nothing: list[tuple[int, ...]] = [()] * len(asked)
    exclude = [(query.reference,) for query in asked]
    return View((), nothing, exclude=exclude), View((), nothing, candidates=[query.members for query in asked])


def _views(asked: list[_Query]) -> tuple[View, ...]:
    exclude, members, hard = [], [], []
    soft, gains = [], []
    soft_members, member_gains = [], []  # of the soft targets those in the set
    for query in asked:
        exclude.append((query.reference,))
        members.append(query.members)
        hard.append(() if query.hard is None else (query.hard,))
        soft.append(tuple(query.soft))
        gains.append(list(query.soft.values()))
        # A soft target outside the set cannot be found among its members, and has no rank there.
        inside = {at: gain for at, gain in query.soft.items() if at in query.members}
        soft_members.append(tuple(inside))
        member_gains.append(list(inside.values()))
    return (
        View(recall((1, 5, 10, 50), single=True), hard, exclude=exclude),
        View(recall((1, 2, 3), "Rsub", single=True), hard, candidates=members),
        View(soft_recall((1, 2, 5, 10, 50, 100), gains, f"{_SOFT} R"), soft, exclude=exclude),
        View(soft_recall((1, 2, 3), member_gains, f"{_SOFT} Rsub"), soft_members, candidates=members),
    )


CIRR = Benchmark(
    name="cirr",
    about="CIRR: 2,297 pictures, 4,181 queries (val); test1 goes to the server",
    sizes="val: 4,181 queries, 2,297 pictures; test1: 4,148 queries, 2,315 pictures, labels on the server",
    rule="R@K on the hard target without the reference, Rsub@K among the set's other five, (R@5 + Rsub@1) / 2; equals "
    "SEARLE; the authors' soft score equals CIRPLANT",
    splits=("val", _HIDDEN),
    options={},
    files=_files,
    build=_build,
    folders=("", "cirr", "CIRR", "cirr_dataset"),
    annotations="github.com/Cuberick-Orion/CIRR, branch cirr_dataset",
    pictures="NLVR2's pictures, by the form at lil.nlp.cornell.edu/nlvr: dev/ for val, test1/ for test1",
)
