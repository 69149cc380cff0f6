"""M-BEIR (TIGER-Lab/M-BEIR): a file of queries, and a pool of candidates that they point into.

query/train/mbeir_NAME_train.jsonl              {"qid": "9:1", "query_txt", "query_img_path", "query_modality",
                                                 "pos_cand_list": [DID, ...], "neg_cand_list": [DID, ...]}
cand_pool/local/mbeir_NAME_cand_pool.jsonl      {"did": "9:11", "txt", "img_path", "modality"}
instructions/query_instructions.tsv             several ways to say the task of each data set, by what asks and answers
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError

from ..pool import RecordPool
from ..row import RowTasks
from .format import TASKS, Finish, Format, Values, answer, answers
from .mbeir_tasks import read_instructions


def _pool_of(queries: Path) -> Path:
    """Return the pool that belongs to a file of queries."""
    name = re.sub(r"(_train|_val|_test)?\.jsonl$", "_cand_pool.jsonl", queries.name)
    return queries.parent.parent.parent / "cand_pool" / "local" / name


def _ids(value: Any) -> Any:
    """Return candidates' ids: they are named by their did, or by an object that holds it."""
    if not isinstance(value, list):
        return value
    return [entry.get("did") if isinstance(entry, dict) else entry for entry in value]


class _Candidates:
    """The pool, from which a row takes what its ids name."""

    def __init__(self, path: Path):
        self.pool = RecordPool(path, "did")

    def __call__(self, values: Values) -> Values:
        """Return the values with what their ids name. Raises DataError for an id that the pool does not hold.

        All of pos_cand_list are right: a query has several where the data set has several equal ones.
        """
        right = values.pop("right")
        if not isinstance(right, list):
            raise DataError(f"pos_cand_list must be a list of ids, not {str(right)[:60]!r}")
        # a further one that the pool does not hold can stand nowhere among the candidates either
        first, *further = dict.fromkeys(right)
        found = [self.pool[first], *(self.pool[did] for did in further if did in self.pool)]
        targets = [answer(entry.get("img_path"), entry.get("txt")) for entry in found]
        wrong = [self.pool[did] for did in values.pop("wrong") or ()]
        return (
            values
            | answers(targets)
            | {
                "negative_image": [entry["img_path"] for entry in wrong if entry.get("img_path")],
                "negative_text": [entry["txt"] for entry in wrong if entry.get("txt") and not entry.get("img_path")],
            }
        )


def _tasks_of(queries: Path) -> Path:
    """Return where the release has the instructions, beside the folder of queries."""
    return queries.parent.parent.parent / "instructions" / "query_instructions.tsv"


class _Instructed:
    """What gives a record the instructions in the file at `path` for its data set and modalities."""

    def __init__(self, path: Path):
        self.path, self.known = path, read_instructions(path)

    def __call__(self, values: Values) -> Values:
        """Return the values with their tasks. Raise DataError for a kind of query that the file has none for."""
        dataset = str(values.get("id")).partition(":")[0]
        target = _first(values.get("target_image")), _first(values.get("target_caption") or values.get("target_text"))
        asks, finds = _modality(values.get("image"), values.get("instruction")), _modality(*target)
        queries = self.known.get((dataset, asks, finds))
        if not queries:
            raise DataError(f"{self.path} has no instruction for data set {dataset}, {asks} -> {finds}")
        # what is asked of a picture with words, and answered by a picture, is a change of it: CIRR, FashionIQ
        implied = frozenset(queries) if (asks, finds) == ("image,text", "image") else frozenset[str]()
        return values | {TASKS: RowTasks(queries, implied=implied)}


def _instructed(path: Path | None) -> Finish | None:
    return _Instructed(path) if path else None


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list) else value


def _modality(picture: Any, words: Any) -> str:
    """Return what M-BEIR calls an input with or without a picture and words."""
    return ",".join(name for name, given in (("image", picture), ("text", words)) if given)


MBEIR = Format(
    description="query/train/*.jsonl, with cand_pool/local/*_cand_pool.jsonl in its place or given as pool",
    columns={
        "id": "qid",
        "instruction": "query_txt",
        "image": "query_img_path",
        "right": "pos_cand_list",
        "wrong": "neg_cand_list",
    },
    kinds=("triplets",),
    optional=frozenset({"id", "instruction", "image", "wrong"}),
    suffixes=(".jsonl",),
    cells={"right": _ids, "wrong": _ids},
    mixed=True,
    pool=_pool_of,
    join=_Candidates,
    instructed=_instructed,
    tasks=_tasks_of,
    hint="images is the folder that holds mbeir_images/",
)
