"""CIRR and FashionIQ as MMEB has them, which is not as their authors do: 1,000 candidates a query, Hit@1.

Files: TIGER-Lab/MMEB-eval (v1: qry_text, qry_img_path, tgt_text, tgt_img_path) and ziyjiang/MMEB_Test_Instruct (v2,
with qry_inst and tgt_inst), <subset>/test-*.parquet, told apart by their columns. Rules as in VLM2Vec@6e1e1d4 `eval.py`
(`eval_type: local`), `src/data/eval_dataset/image_i2i_vg_dataset.py`, `src/utils/eval_utils/metrics.py`: the first
candidate is right; scores are bf16 vectors' there, and equal ones as argsort leaves them, here by the pictures' names.
The files themselves could not be opened here: columns are those that code and MMEB's cards name.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import methodcaller
from typing import Any

from mllm_embed.errors import DataError
from mllm_embed.types import Query

from ..scoring.metrics import recall
from ..scoring.suite import Suite, Task, View
from .base import (
    ALL_TASKS,
    Benchmark,
    BenchmarkFiles,
    Options,
    Places,
    chosen_tasks,
    composed_query,
    documents,
    positions_by_id,
    positions_of,
)

TASKS = ("CIRR", "FashionIQ")
KS = (1, 5, 10)
# What MMEB writes before the change, and for a candidate; v1 has it in one text with the change, v2 beside it.
INSTRUCTIONS = {
    "CIRR": "Given an image, find a similar everyday image with the described changes:",
    "FashionIQ": "Find an image to match the fashion image and style note:",
}
CANDIDATE = "Represent the given image."
_TOKEN = "<|image_1|>"
_TYPES: dict[str, type] = {"qry_text": str, "qry_img_path": str, "tgt_text": list, "tgt_img_path": list}
_PICTURES = ("{path}", "images/{path}", "image-tasks/{path}", "MMEB/{path}", "eval_images/{path}")


@dataclass(frozen=True)
class _Row:
    """A row in MMEB's words.

    Attributes:
        instruction: of the query.
        text: the change that is asked for.
        reference: the path of its picture.
        told: the instruction of its candidates.
        candidates: their paths, the right one first.
    """

    instruction: str
    text: str
    reference: str
    told: str
    candidates: list[str]


def _files(split: str, options: Options) -> dict[str, Places]:
    names = ("{0}/test-00000-of-00001.parquet", "{0}/test/0000.parquet", "{0}/test.parquet", "{0}.parquet")
    return {name: tuple(map(methodcaller("format", name), names)) for name in chosen_tasks(options, TASKS)}


def _build(files: BenchmarkFiles, split: str, options: Options) -> Suite:
    tasks = tuple(_task(files, name) for name in chosen_tasks(options, TASKS))
    return Suite("mmeb", split, options, tasks, (), ("Hit@1",), _protocol())


def _protocol() -> dict[str, str]:
    return {
        "gallery": "for each query its own candidates (1,000 in MMEB's files); equal scores by the pictures' names",
        "query text": "the change; MMEB's instruction before it is the task, for models that take one",
        "excluded": "nothing",
        "Hit@K": "the first candidate of the list among the first K; Hit@1 among 1,000 is no R@1",
        "differs": "VLM2Vec's code scores bf16 vectors, and leaves equal scores as argsort does",
        "equals": "VLM2Vec 6e1e1d4 eval.py, src/utils/eval_utils/metrics.py",
        "leaks": "MMEB's training set holds the training splits of CIRR and FashionIQ",
    }


def _task(files: BenchmarkFiles, name: str) -> Task:
    rows = [_read(row, name, f"{files.paths[name]} row {at}") for at, row in enumerate(files.table(name, _TYPES))]
    # one gallery for all queries, each of which chooses among its own; sorted, so that ties go by name
    names = sorted(set().union(*(row.candidates for row in rows)))
    place = positions_by_id(names)
    positions = [positions_of(place, row.candidates, str(files.paths[name])) for row in rows]
    paths = files.pictures(f"{name} candidate", _PICTURES, [{"path": path} for path in names])
    asked = files.pictures(f"{name} query", _PICTURES, [{"path": row.reference} for row in rows])
    queries: list[tuple[Query]] = [(composed_query(path, row.text),) for path, row in zip(asked, rows, strict=True)]
    return Task(
        name=name,
        gallery_ids=names,
        gallery=documents(paths),
        query_ids=list(map(str, range(len(rows)))),
        queries=queries,
        views=(View(recall(KS, "Hit"), [row[:1] for row in positions], candidates=positions),),
        tasks={
            "query": _one([row.instruction for row in rows], str(files.paths[name])),
            "document": _one([row.told for row in rows], str(files.paths[name])),
        },
    )


def _read(row: dict[str, Any], name: str, where: str) -> _Row:
    texts, paths = row["tgt_text"], row["tgt_img_path"]
    if not paths or len(texts) != len(paths) or not all(isinstance(path, str) and path for path in paths):
        raise DataError(f'{where}: "tgt_img_path" must name the candidates, one for each of "tgt_text"')
    own = {str(text or "").replace(_TOKEN, "").strip() for text in texts} - {"", CANDIDATE}
    if own:
        # a candidate with words of its own, as other tasks of MMEB have, would be embedded without them
        raise DataError(f'{where}: a candidate has the words "{min(own)[:60]}", which no picture of {name} has in MMEB')
    told = row["tgt_inst"] if isinstance(row.get("tgt_inst"), str) else CANDIDATE
    return _Row(*_asked(row, name, where), row["qry_img_path"], told.replace(_TOKEN, "").strip(), paths)


def _asked(row: dict[str, Any], name: str, where: str) -> tuple[str, str]:
    """Return MMEB's instruction and the change. Raise DataError for a text of v1 without its instruction."""
    text = row["qry_text"].replace(_TOKEN, "").strip()
    if isinstance(row.get("qry_inst"), str):
        return row["qry_inst"].replace(_TOKEN, "").strip(), text
    instruction = INSTRUCTIONS[name]
    if not text.startswith(instruction):
        raise DataError(f'{where}: "qry_text" does not begin with "{instruction}"; give the files of MMEB')
    return instruction, text.removeprefix(instruction).strip()


def _one(instructions: list[str], where: str) -> str:
    """Return the one instruction of all rows. Raise DataError where there are several."""
    found = list(dict.fromkeys(instructions))
    if len(found) > 1:
        raise DataError(f'{where}: rows have different instructions, "{found[0]}" and "{found[1]}"; fetch it again')
    return found[0]


MMEB = Benchmark(
    name="mmeb",
    about="MMEB's CIRR and FashionIQ: Hit@1 among 1,000 candidates a query, which is no R@1 of CIRR or FashionIQ",
    splits=("test",),
    options={"task": (ALL_TASKS, *TASKS)},
    files=_files,
    build=_build,
    folders=("", "mmeb", "MMEB", "MMEB-eval", "MMEB_Test_Instruct"),
    annotations="huggingface.co/datasets/TIGER-Lab/MMEB-eval (v1) or ziyjiang/MMEB_Test_Instruct (v2): "
    "CIRR/ and FashionIQ/",
    pictures="images.zip of TIGER-Lab/MMEB-eval, or image-tasks/ of TIGER-Lab/MMEB-V2",
    sizes="1,000 queries a task, 1,000 candidates each",
    rule="Hit@1 (and @5, @10) of the first candidate; equals VLM2Vec@6e1e1d4 but for bf16 scores and ties",
)
