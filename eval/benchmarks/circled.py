"""CIRCLED (Takeda et al., arXiv 2605.26734): sessions of two to six turns over FashionIQ, CIRR and CIRCO; its authors'
own evaluation could not be read, and differs from this one at least in CIRCO's gallery, where files of equal bytes are
one there.

Sessions: huggingface.co/datasets/tk1441/CIRCLED, one file a subset, in the schema of its card and of
`src/convert_to_public.py` in github.com/mti-lab/circled (283113d), which made them. As in `multiturn_cir_system.py`
there, a subset's gallery is that of the split that it was made of, nothing is taken out, and a session has found what
it looks for once any of its ground truths is among the first 10 answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError
from mllm_embed.types import Query

from ..scoring.metrics import recall
from ..scoring.sessions.turns import SESSION_RULES, Session, turn_tasks
from ..scoring.suite import Suite
from . import circo, cirr, fashioniq
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

_SESSIONS = "sessions"
_KS = (1, 5, 10, 50)
_FOLDERS = (
    "",
    "circled",
    "CIRCLED",
    "fashion-iq",
    "fashioniq",
    "FashionIQ",
    "cirr",
    "CIRR",
    "cirr_dataset",
    "CIRCO",
    "circo",
)
_TYPES: dict[str, type] = {"session_id": str, "ground_truth_ids": list, "turns": list}
_TURN: dict[str, type] = {"turn": int, "reference_image_id": str, "relative_caption": str}


@dataclass(frozen=True)
class _Subset:
    """Where a subset's pictures are from.

    Attributes:
        files: what its gallery is read from.
        gallery: ids and pictures of its gallery.
        id: a picture's id as CIRCLED writes it -> its id in the gallery.
    """

    files: Mapping[str, Places]
    gallery: Callable[[BenchmarkFiles], tuple[list[str], list[Path]]]
    id: Callable[[str], str] = str


def _fashioniq_gallery(files: BenchmarkFiles, category: str) -> tuple[list[str], list[Path]]:
    names = fashioniq.gallery(files, category)
    return names, fashioniq.pictures(files, category, names)


def _coco_id(name: str) -> str:
    """Return COCO's id of the name of a file of COCO, whose leading zeros it has not."""
    return name.removesuffix(".jpg").lstrip("0")


def _subsets() -> dict[str, _Subset]:
    found = {}
    for split in ("val", "train"):
        found[f"cirr_{split}"] = _Subset({cirr.GALLERY: (f"image_splits/split.rc2.{split}.json",)}, cirr.gallery)
        for category in fashioniq.CATEGORIES:
            places = {fashioniq.image_split(category): (f"image_splits/split.{category}.{split}.json",)}
            gallery = partial(_fashioniq_gallery, category=category)
            found[f"fashioniq_{category}_{split}"] = _Subset(places, gallery)
        if split == "val":
            found["circo_val"] = _Subset({circo.GALLERY: circo.GALLERY_PLACES}, circo.gallery, _coco_id)
    return found


SUBSETS = _subsets()


def _files(split: str, options: Options) -> dict[str, Places]:
    return {_SESSIONS: (f"data/{split}.json", f"{split}.json"), **SUBSETS[split].files}


def _build(files: BenchmarkFiles, split: str, options: Options) -> Suite:
    subset = SUBSETS[split]
    ids, paths = subset.gallery(files)
    place = positions_by_id(ids)
    rows = files.rows(_SESSIONS, _TYPES)
    unique([row["session_id"] for row in rows], str(files.paths[_SESSIONS]))
    sessions = [_session(files, row, subset, place, paths) for row in rows]
    tasks = turn_tasks(sessions, ids, documents(paths), recall(_KS), "R@10")
    names = tuple(task.name for task in tasks)
    return Suite("circled", split, options, tasks, (), (), _protocol(split), names)


def _session(
    files: BenchmarkFiles, row: dict[str, Any], subset: _Subset, place: dict[str, int], paths: list[Path]
) -> Session:
    where = f'{files.paths[_SESSIONS]} session "{row["session_id"]}"'
    truths = row["ground_truth_ids"]
    if not truths or not all(isinstance(name, str) for name in truths):
        raise DataError(f'{where}: "ground_truth_ids" must be ids, at least one; fetch the file again')
    if not row["turns"] or not all(map(_is_turn, row["turns"])):
        raise DataError(f'{where}: each of "turns" must have {", ".join(_TURN)}; fetch the file again')
    numbers = [turn["turn"] for turn in row["turns"]]
    if numbers != sorted(set(numbers)):
        raise DataError(f'{where}: its "turns" are not in the order of their numbers; fetch the file again')
    references = [position_of(place, subset.id(turn["reference_image_id"]), where) for turn in row["turns"]]
    turns = [_query(paths[at], turn) for at, turn in zip(references, row["turns"], strict=True)]
    return Session(row["session_id"], turns, positions_of(place, unique(list(map(subset.id, truths)), where), where))


def _query(picture: Path, turn: dict[str, Any]) -> Query:
    return composed_query(picture, turn["relative_caption"])


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and all(isinstance(turn.get(key), kind) for key, kind in _TURN.items())


def _protocol(split: str) -> dict[str, str]:
    return {
        "gallery": f"all pictures of the split that {split} was made of, in its order",
        "query text": "the relative caption as it stands; of FashionIQ's two captions a session begins with one",
        "excluded": "nothing: references stay in the gallery",
        "R@K": "any of the session's ground truths among the first K",
        **SESSION_RULES,
        "differs": "from CIRCO's gallery in the authors' code, where files of equal bytes are one; and their own "
        "evaluation (arXiv 2605.26734) could not be read",
        "leaks": "references after the first were chosen, and captions written, by programs that knew the target; "
        "pictures and first turns are those of FashionIQ, CIRR and CIRCO",
    }


CIRCLED = Benchmark(
    name="circled",
    about="CIRCLED: sessions of 2 to 6 turns over FashionIQ, CIRR and CIRCO; a split is a subset of it",
    sizes="sessions by its card: cirr_val 959, fashioniq_dress_val 1,360, fashioniq_shirt_val 1,500, "
    "fashioniq_toptee_val 1,506, circo_val 54; the pictures of the split that each is made of",
    rule="R@K by turn, found@K by turn and in how many turns, of all sessions; any ground truth counts, references "
    "stay in; the authors' own evaluation could not be read, and their gallery of CIRCO has files of equal bytes once",
    splits=tuple(SUBSETS),
    options={},
    files=_files,
    build=_build,
    folders=_FOLDERS,
    annotations="huggingface.co/datasets/tk1441/CIRCLED (data/SUBSET.json), and the image split of the benchmark that "
    "the subset is made of, beside it or in fashion-iq/, cirr/ or CIRCO/",
    pictures="of the benchmark that the subset is made of: "
    + "; ".join(f"{own.name}: {own.pictures}" for own in (fashioniq.FASHIONIQ, cirr.CIRR, circo.CIRCO)),
)
