"""PinPoint (Mahadev et al., CVPR 2026) by its authors' scorer, but equal scores go by gallery order, reversed there.

Annotations: pinpoint_licensed.parquet and index_signatures.txt of github.com/pinterest/pinpoint-dataset. Rules as in
its `evaluate.py` and `utils/metrics.py` @e4ebb38: every wording is a query of its own; the reference stays in; several
targets; explicit negatives. Its rankings have 50 answers. Lists with doubles, and negatives outside the index, are as
published: both count in denominators alone. A query's other wordings are its `paraphrases` for `robustness`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError
from mllm_embed.types import ImageLike, Query

from ..scoring.metrics import (
    Metric,
    cleaned_precision,
    found_share,
    listed_precision,
    negative_recall,
    precision,
    spread_of_precision,
)
from ..scoring.suite import Suite, Task, View
from .base import Benchmark, BenchmarkFiles, Options, Places, documents, position_of, positions_by_id, unique

_QUERIES, _GALLERY = "queries", "index"
_ID, _FIRST, _SECOND, _TEXT = "query_id", "query_image_signature", "query_image_signature2", "instruction"
_RIGHT, _WRONG, _KIND = "positive_candidates", "negative_candidates", "query_category"
_TYPES: dict[str, type] = {_ID: str, _FIRST: str, _TEXT: str, _RIGHT: list, _WRONG: list}
_NO_PICTURE = ("None", "", None)  # the published file writes a missing second picture as the word
KS = (1, 5, 10, 50)
DEPTH = 50  # answers of a ranking, from which negatives are taken out
# The scorer's own address of a picture on Pinterest's CDN, from which a copy of it is often made folder by folder.
_PICTURES = ("{name}.jpg", "images/{name}.jpg", "{a}/{b}/{c}/{name}.jpg", "736x/{a}/{b}/{c}/{name}.jpg", "{name}.png")
_PRINTED = ("P@1", "P@10", "NegRecall@10", "mAP@10", "mAP@10 without negatives", "P@10 spread")


def _files(split: str, options: Options) -> dict[str, Places]:
    return {_QUERIES: ("pinpoint_licensed.parquet",), _GALLERY: ("index_signatures.txt",)}


@dataclass(frozen=True)
class _Query:
    """A row in gallery positions.

    Attributes:
        pictures: its one or two references.
        right, wrong: its candidates, each once; negatives outside the index are left out.
        listed, negatives: how long the file's two lists are.
    """

    pictures: tuple[int, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    listed: int
    negatives: int

    @property
    def negative(self) -> tuple[int, ...]:
        """What is wrong, without the few candidates that the file has as right too."""
        return tuple(at for at in self.wrong if at not in self.right)


def _build(files: BenchmarkFiles, split: str, options: Options) -> Suite:
    names = unique([line.strip() for line in files.lines(_GALLERY)], str(files.paths[_GALLERY]))
    place = positions_by_id(names)
    rows = files.table(_QUERIES, _TYPES)
    asked = [_read(row, place, f'{files.paths[_QUERIES]} query "{row[_ID]}"') for row in rows]
    paths = files.pictures("index", _PICTURES, [_parts(name) for name in names])
    task = Task(
        name="",
        gallery_ids=names,
        gallery=documents(paths),
        query_ids=unique([row[_ID] for row in rows], str(files.paths[_QUERIES])),
        queries=_queries(asked, rows, paths),
        views=_views(asked),
        groups=[_groups(query, row) for query, row in zip(asked, rows, strict=True)],
        by_group=("mAP@10", "NegRecall@10"),
        found_at=("P@10",),
        paraphrases=_paraphrases(asked, [row[_TEXT] for row in rows]),
        negatives=[query.negative for query in asked],
    )
    return Suite("pinpoint", split, options, (task,), (), _PRINTED, _protocol())


def _queries(asked: list[_Query], rows: list[dict[str, Any]], paths: list[Path]) -> list[tuple[Query]]:
    return [(_query(query, paths, row[_TEXT]),) for query, row in zip(asked, rows, strict=True)]


def _protocol() -> dict[str, str]:
    return {
        "gallery": "all pictures of index_signatures.txt, in its order",
        "query text": "the instruction as it stands; each wording is a query; one or two pictures",
        "excluded": "nothing: the reference pictures stay in the gallery",
        "P@K": "the share of the first K answers that are positive candidates",
        "mAP@K": "precisions at the positives among the first K, summed and divided by min(positives, K)",
        "found@K": "the share of the positives among the first K, which the authors call recall@K",
        "NegRecall@K": "the negatives among the first K, divided by min(negatives, K)",
        "without negatives": f"mAP@K of the first {DEPTH} answers without the negatives; their delta is what it adds",
        "spread": "the highest P@10 less the lowest among the queries of one picture or pair, mean over such sets of "
        "several queries; the authors' ling_sens_range",
        "doubles": "a candidate that a list names twice, or that is not in the index, counts in the denominator alone",
        "differs": "equal scores go by gallery order, where the authors' FAISS index gives them in reverse",
        "equals": "pinpoint-dataset e4ebb38 evaluate.py, utils/metrics.py",
    }


def _read(row: dict[str, Any], place: dict[str, int], where: str) -> _Query:
    if not row[_TEXT].strip() or not row[_RIGHT]:
        missing = _RIGHT if row[_TEXT].strip() else _TEXT
        raise DataError(f'{where}: "{missing}" is empty; fetch the file again')
    # the published file has negatives that are nothing at all; they are in no index, and count as those outside it
    if not all(isinstance(name, str) for name in row[_RIGHT]):
        raise DataError(f'{where}: an entry of "{_RIGHT}" is no signature; fetch the file again')
    given = (row[_FIRST], row.get(_SECOND))
    right = (position_of(place, name, where) for name in row[_RIGHT])
    return _Query(
        pictures=tuple(position_of(place, name, where) for name in given if name not in _NO_PICTURE),
        right=tuple(dict.fromkeys(right)),
        wrong=tuple(dict.fromkeys(place[name] for name in row[_WRONG] if isinstance(name, str) and name in place)),
        listed=len(row[_RIGHT]),
        negatives=len(row[_WRONG]),
    )


def _query(query: _Query, paths: list[Path], text: str) -> Query:
    pictures: list[ImageLike] = [paths[at] for at in query.pictures]
    return Query(image=pictures[0] if len(pictures) == 1 else pictures, instruction=text.strip())


def _parts(name: str) -> dict[str, str]:
    return {"name": name, "a": name[:2], "b": name[2:4], "c": name[4:6]}


def _views(asked: list[_Query]) -> tuple[View, ...]:
    right, wrong = [query.right for query in asked], [query.wrong for query in asked]
    sizes = [query.listed for query in asked]
    both, counts, outs = [], [], []
    for query in asked:
        judged = tuple(dict.fromkeys((*query.right, *query.wrong)))
        both.append(judged)
        counts.append(len(query.right))
        outs.append([at for at, position in enumerate(judged) if position in query.wrong])
    found: tuple[Metric, ...] = (
        *listed_precision((10, 1, 5, 50), sizes),
        *precision(KS),
        *found_share(KS, sizes),
        spread_of_precision(10, _sets(asked)),
    )
    return (
        View(found, right),
        View(negative_recall(KS, [query.negatives for query in asked]), wrong),
        View(cleaned_precision(KS, sizes, counts, outs, DEPTH), both),
    )


def _sets(asked: list[_Query]) -> list[int]:
    """Return for each query which picture, or pair of pictures, it asks with."""
    numbers: dict[tuple[int, ...], int] = {}
    return [numbers.setdefault(query.pictures, len(numbers)) for query in asked]


def _groups(query: _Query, row: dict[str, Any]) -> tuple[str, ...]:
    pictures = "one picture" if len(query.pictures) == 1 else "two pictures"
    kind = row.get(_KIND)
    return (kind, pictures) if isinstance(kind, str) and kind else (pictures,)


def _paraphrases(asked: list[_Query], texts: list[str]) -> list[list[str]]:
    """Return for each query the other texts that ask with its pictures for its targets."""
    wishes: dict[tuple[tuple[int, ...], frozenset[int]], list[int]] = {}
    for number, query in enumerate(asked):
        wishes.setdefault((query.pictures, frozenset(query.right)), []).append(number)
    others: list[list[str]] = [[] for _ in asked]
    for numbers in wishes.values():
        for number in numbers:
            others[number] = list(dict.fromkeys(texts[at] for at in numbers if texts[at] != texts[number]))
    return others


PINPOINT = Benchmark(
    name="pinpoint",
    about="PinPoint: several targets, explicit negatives, wordings, two pictures; ties by gallery order, not FAISS'",
    splits=("",),
    options={},
    files=_files,
    build=_build,
    folders=("", "pinpoint", "pinpoint-dataset"),
    annotations="github.com/pinterest/pinpoint-dataset: pinpoint_licensed.parquet and index_signatures.txt",
    pictures="i.pinimg.com/736x/<1-2>/<3-4>/<5-6>/<signature>.jpg for each signature, as images/<signature>.jpg or so",
    sizes="7,635 queries (wordings about 1,260 pictures or pairs), 109,600 pictures",
    rule="mAP, P, NegRecall @1, 5, 10, 50, mAP without negatives, spread over wordings; "
    "equals pinpoint-dataset@e4ebb38 but for the order of ties",
)
