"""i-CIR (Psomas et al., NeurIPS 2025) by its authors' rule, but equal scores go by gallery order, in no order there.

Annotations: query_files.csv and database_files.csv of github.com/billpsomas/icir, lines `picture,text,instance` without
a header. Rules as in its `run_retrieval.py`, `utils_retrieval.py` and `utils.py` @463cc1d: a query searches the
pictures of its own instance, right are those with its text, and a query's average precision is the area by trapezoids;
mAP over all queries. Here equal scores go by gallery order. The files themselves could not be opened: their format is
what that code reads, and what the card of the data says.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mllm_embed.errors import DataError
from mllm_embed.types import Query

from ..scoring.metrics import TRAPEZOID_MAP, recall
from ..scoring.suite import Suite, Task, View
from .base import Benchmark, BenchmarkFiles, Options, Places, composed_query, distinct, documents

_QUERIES, _GALLERY = "queries", "database"
_PICTURES = ("{path}", "icir/{path}", "data/icir/{path}")


class _Line(NamedTuple):
    """A line of a file: the picture's path below the data's folder, its text, and the instance it belongs to."""

    path: str
    text: str
    instance: str


def _files(split: str, options: Options) -> dict[str, Places]:
    return {
        _QUERIES: ("query_files.csv", "annotations/query_files.csv"),
        _GALLERY: ("database_files.csv", "annotations/database_files.csv"),
    }


def _build(files: BenchmarkFiles, split: str, options: Options) -> Suite:
    asked, lines = _lines(files, _QUERIES), _lines(files, _GALLERY)
    # their code goes through the instances by name: means are added up in that order, and must agree in every digit
    order = sorted(range(len(asked)), key=lambda number: asked[number].instance)
    galleries = _galleries(lines)
    right = _right(lines)
    where = files.paths[_QUERIES]
    queries: list[tuple[Query]] = []
    targets, candidates = [], []
    pictures = _pictures(files, "query", [asked[number].path for number in order])
    for number, picture in zip(order, pictures, strict=True):
        line = asked[number]
        found = right.get((line.instance, line.text), ())
        if not found:
            raise DataError(
                f'{where} line {number}: no picture of "{line.instance}" in {files.paths[_GALLERY]} has its text; '
                "the files are of different versions"
            )
        queries.append((composed_query(picture, line.text),))
        targets.append(found)
        candidates.append(galleries[line.instance])  # the same list for all queries of an instance, never a copy
    task = Task(
        name="",
        gallery_ids=distinct(line.path for line in lines),
        gallery=documents(_pictures(files, "database", [line.path for line in lines])),
        query_ids=[str(number) for number in order],
        queries=queries,
        views=(View((TRAPEZOID_MAP, *recall((1, 5, 10))), targets, candidates=candidates),),
        found_at=("R@10",),
    )
    return Suite("icir", split, options, (task,), (), (TRAPEZOID_MAP.name,), _protocol())


def _protocol() -> dict[str, str]:
    return {
        "gallery": "for each query the pictures of its instance, hard negatives among them, in the file's order",
        "query text": "the text as it stands",
        "excluded": "nothing",
        "mAP": "mean over all queries of the area under precision and recall, by trapezoids, over the whole ranking; "
        "R@K, any target among the first K, is not one of the authors' figures",
        "differs": "equal scores go by gallery order, not as torch.argsort leaves them; their means over instances "
        "(mmAP, minmAP) are left out; 2 digits are printed there",
        "equals": "icir 463cc1d utils.py compute_map, run_retrieval.py",
    }


def _lines(files: BenchmarkFiles, what: str) -> list[_Line]:
    lines, path = [], files.paths[what]
    for number, line in enumerate(files.lines(what)):
        # as their code splits it, but a fourth part, which it would lose, is told; a text may be empty
        parts = line.strip().split(",")
        if len(parts) != 3 or not parts[0] or not parts[2]:
            raise DataError(f"{path} line {number} must be picture,text,instance, three parts without commas in them")
        lines.append(_Line(*parts))
    for known, count in Counter(lines).items():
        if count > 1:
            raise DataError(f'{path}: "{known.path}" with "{known.text}" stands {count} times; fetch the file again')
    return lines


def _galleries(lines: list[_Line]) -> dict[str, list[int]]:
    """Return the gallery positions of each instance's pictures."""
    galleries: dict[str, list[int]] = {}
    for position, line in enumerate(lines):
        galleries.setdefault(line.instance, []).append(position)
    return galleries


def _right(lines: list[_Line]) -> dict[tuple[str, str], list[int]]:
    """Return the gallery positions of the pictures of each instance with each text."""
    right: dict[tuple[str, str], list[int]] = {}
    for position, line in enumerate(lines):
        right.setdefault((line.instance, line.text), []).append(position)
    return right


def _pictures(files: BenchmarkFiles, what: str, paths: list[str]) -> list[Path]:
    # the files name pictures from the folder above the data's own
    return files.pictures(what, _PICTURES, [{"path": path.removeprefix("icir/")} for path in paths])


ICIR = Benchmark(
    name="icir",
    about="i-CIR: instances, each with a gallery of its own, and mAP by trapezoids; ties by gallery order",
    splits=("",),
    options={},
    files=_files,
    build=_build,
    folders=("", "icir", "data/icir"),
    annotations="vrg.fel.cvut.cz/icir/icir_v1.0.0.tar.gz, or huggingface.co/datasets/billpsomas/icir, whose shards you "
    "unpack into query/ and database/",
    pictures="with the annotations, as icir/query/ and icir/database/ (about 750,000)",
    sizes="1,883 queries of 202 instances; about 3,700 pictures a query, 750,000 in all",
    rule="mAP by trapezoids among the pictures of the query's instance; equals icir@463cc1d but for the order of ties",
)
