"""CIRR (Liu et al., ICCV 2021): real-life pictures of NLVR2, in sets of six.

Annotations: github.com/Cuberick-Orion/CIRR, branch cirr_dataset (rc2). Rules as in SEARLE's `src/validate.py`, which is
CLIP4Cir's: the reference is taken out, recall on `target_hard`, subset recall among the other five of the set. The soft
score is that of the authors' own code (CIRPLANT, OSCAR_CIRPLANT.py).
"""

from __future__ import annotations

import math
from typing import Any

from mllm_embed.errors import DataError
from mllm_embed.types import Document

from ..scoring.metrics import recall, soft_recall
from ..scoring.suite import Mean, Suite, Task, View
from .base import Benchmark, BenchmarkFiles, Options, ask, positions_of, unique

_CAPTIONS, _GALLERY = "captions", "image split"
_SUBSET = 3


def _files(split: str, options: Options) -> dict[str, tuple[str, ...]]:
    return {
        _CAPTIONS: (f"captions/cap.rc2.{split}.json",),
        _GALLERY: (f"image_splits/split.rc2.{split}.json",),
    }


def _build(source: BenchmarkFiles, split: str, options: Options) -> Suite:
    labelled = split != "test1"
    types: dict[str, type] = {"pairid": int, "reference": str, "caption": str, "img_set": dict}
    rows = source.rows(_CAPTIONS, **types, **({"target_hard": str, "target_soft": dict} if labelled else {}))
    gallery = source.json(_GALLERY)
    if not isinstance(gallery, dict) or not all(isinstance(path, str) and "/" in path for path in gallery.values()):
        raise DataError(f"{source.files[_GALLERY]} must be an object, name -> ./folder/name.png; fetch it again")
    names = list(gallery)
    place = {name: position for position, name in enumerate(names)}
    paths = source.pictures(
        "gallery",
        ("{path}", "img_raw/{path}", "{folder}/{name}.png"),
        [{"path": path.removeprefix("./"), "folder": path.split("/")[1], "name": n} for n, path in gallery.items()],
    )
    where = [f"{source.files[_CAPTIONS]} pair {row['pairid']}" for row in rows]
    references = [positions_of(place, [row["reference"]], at) for row, at in zip(rows, where, strict=True)]
    members = [
        positions_of(place, (m for m in _members(row, at) if m != row["reference"]), at)
        for row, at in zip(rows, where, strict=True)
    ]
    task = Task(
        name="",
        gallery_ids=names,
        gallery=[Document(image=path) for path in paths],
        query_ids=unique([str(row["pairid"]) for row in rows], str(source.files[_CAPTIONS])),
        queries=[(ask(paths[reference[0]], row["caption"]),) for row, reference in zip(rows, references, strict=True)],
        views=_views(rows, place, where, references, members) if labelled else _hidden(references, members),
    )
    protocol = {
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
    means = (Mean("(R@5 + Rsub@1) / 2", ("R@5", "Rsub@1")),) if labelled else ()
    printed = tuple(m.name for view in task.views for m in view.metrics if not m.name.startswith("soft"))
    return Suite("cirr", split, options, (task,), means, printed, protocol)


def _members(row: dict[str, Any], where: str) -> list[str]:
    members = row["img_set"].get("members")
    if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
        raise DataError(f'{where}: "img_set" has no list "members" of names; fetch the file again')
    if row.get("target_hard", members[0] if members else None) not in members:
        raise DataError(f'{where}: "target_hard" is not one of the "members" of "img_set"; fetch the file again')
    return members


def _soft(row: dict[str, Any], place: dict[str, int], where: str) -> dict[int, float]:
    """Gallery position -> value, without the reference, which cannot be found."""
    gains = {name: value for name, value in row["target_soft"].items() if name != row["reference"]}
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in gains.values()):
        raise DataError(f'{where}: a value of "target_soft" is no number; fetch the file again')
    return dict(zip(positions_of(place, gains, where), map(float, gains.values()), strict=True))


def _hidden(references: list[tuple[int, ...]], members: list[tuple[int, ...]]) -> tuple[View, ...]:
    """What takes part where the labels are on the server: the whole gallery, then the set."""
    nothing: list[tuple[int, ...]] = [()] * len(references)
    return View((), nothing, exclude=references), View((), nothing, candidates=members)


def _views(
    rows: list[dict[str, Any]],
    place: dict[str, int],
    where: list[str],
    references: list[tuple[int, ...]],
    members: list[tuple[int, ...]],
) -> tuple[View, ...]:
    hard = [positions_of(place, [row["target_hard"]], at) for row, at in zip(rows, where, strict=True)]
    soft = [_soft(row, place, at) for row, at in zip(rows, where, strict=True)]
    among = [
        {at: gain for at, gain in gains.items() if at in allowed} for gains, allowed in zip(soft, members, strict=True)
    ]
    gains, near = [list(g.values()) for g in soft], [list(g.values()) for g in among]
    return (
        View(recall((1, 5, 10, 50), single=True), hard, exclude=references),
        View(recall((1, 2, 3), "Rsub", single=True), hard, candidates=members),
        View(soft_recall((1, 2, 5, 10, 50, 100), gains, "soft R"), [tuple(g) for g in soft], exclude=references),
        View(soft_recall((1, 2, 3), near, "soft Rsub"), [tuple(g) for g in among], candidates=members),
    )


CIRR = Benchmark(
    name="cirr",
    about="CIRR: 2,297 pictures, 4,181 queries (val); test1 goes to the server",
    splits=("val", "test1"),
    options={},
    files=_files,
    build=_build,
    folders=("", "cirr", "CIRR", "cirr_dataset"),
    annotations="github.com/Cuberick-Orion/CIRR, branch cirr_dataset",
    pictures="NLVR2's pictures, by the form at lil.nlp.cornell.edu/nlvr: dev/ for val, test1/ for test1",
)
