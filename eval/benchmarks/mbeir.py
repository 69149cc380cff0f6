"""CIRR and FashionIQ as MTEB and M-BEIR have them, not as their authors do: one pool of all splits, nDCG@10.

Files: query/test, cand_pool/local and qrels/test of huggingface.co/datasets/TIGER-Lab/M-BEIR, from which mteb's
CIRRIT2IRetrieval and FashionIQIT2IRetrieval are made (same counts). Rules: nDCG@10 as mteb 2.26 takes it from trec_eval
(`mteb/_evaluators/retrieval_metrics.py`); R@K, any relevant picture among the first K, as UniIR@98dc570
`src/common/mbeir_retriever.py`. Equal scores go by pool order, where trec_eval sorts ids backwards; nothing is rounded.
The files themselves could not be opened here: their format is that of UniIR's `src/data` and `load_qrel`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError

from ..scoring.metrics import ndcg, recall
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
    position_of,
    positions_by_id,
    unique,
)

# MTEB's instruction of each task, for models that take one.
INSTRUCTIONS = {
    "cirr": "Retrieve a day-to-day image that aligns with the modification instructions of the provided image.",
    "fashioniq": "Find a fashion image that aligns with the reference image and style note.",
}
TASKS = tuple(INSTRUCTIONS)
METRICS = (*ndcg((10,)), *recall((1, 5, 10, 50)))
_POOL_TYPES: dict[str, type] = {"did": str, "img_path": str}
_QUERY_TYPES: dict[str, type] = {"qid": str, "query_txt": str, "query_img_path": str}
_PICTURES = ("{path}", "images/{path}")


def _files(split: str, options: Options) -> dict[str, Places]:
    places: dict[str, Places] = {}
    for name in chosen_tasks(options, TASKS):
        what = f"mbeir_{name}_task7"
        places[_queries(name)] = (f"query/{split}/{what}_{split}.jsonl", f"{what}_{split}.jsonl")
        places[_pool(name)] = (f"cand_pool/local/{what}_cand_pool.jsonl", f"{what}_cand_pool.jsonl")
        places[_qrels(name)] = (f"qrels/{split}/{what}_{split}_qrels.txt", f"{what}_{split}_qrels.txt")
    return places


def _queries(name: str) -> str:
    return f"{name} queries"


def _pool(name: str) -> str:
    return f"{name} pool"


def _qrels(name: str) -> str:
    return f"{name} qrels"


def _build(files: BenchmarkFiles, split: str, options: Options) -> Suite:
    tasks = tuple(_task(files, name) for name in chosen_tasks(options, TASKS))
    return Suite("mbeir", split, options, tasks, (), ("nDCG@10", "R@5", "R@10"), _protocol())


def _protocol() -> dict[str, str]:
    return {
        "gallery": "the task's local pool: pictures of all splits, in its order",
        "query text": "query_txt as it stands; MTEB's instruction is the task, for models that take one",
        "excluded": "nothing: the reference picture stays in the pool",
        "nDCG@10": "1 / log2(rank + 1) of each relevant picture among the first 10, by that of the best order",
        "R@K": "any relevant picture among the first K (UniIR reports R@5 of CIRR, R@10 of FashionIQ)",
        "differs": "equal scores go by pool order, where trec_eval goes by ids backwards; mteb rounds to 5 digits; "
        "UniIR asks with instructions drawn at random",
        "equals": "mteb 2.26 (trec_eval's ndcg_cut), UniIR 98dc570 mbeir_retriever.py",
        "leaks": "M-BEIR's training set holds the training splits of CIRR and FashionIQ, whose pictures are here",
    }


def _task(files: BenchmarkFiles, name: str) -> Task:
    pool = files.records(_pool(name), _POOL_TYPES)
    _check_pictures(pool, str(files.paths[_pool(name)]))
    ids = unique([row["did"] for row in pool], str(files.paths[_pool(name)]))
    place = positions_by_id(ids)
    rows = files.records(_queries(name), _QUERY_TYPES)
    asked = unique([row["qid"] for row in rows], str(files.paths[_queries(name)]))
    relevant = _relevant(files, name, place, asked)
    gallery, references = _paths(files, name, pool, "img_path"), _paths(files, name, rows, "query_img_path")
    return Task(
        name=name,
        gallery_ids=ids,
        gallery=documents(gallery),
        query_ids=asked,
        queries=[(composed_query(path, row["query_txt"]),) for path, row in zip(references, rows, strict=True)],
        views=(View(METRICS, relevant),),
        found_at=("R@10",),
        tasks={"query": INSTRUCTIONS[name]},
    )


def _paths(files: BenchmarkFiles, name: str, rows: list[dict[str, Any]], key: str) -> list[Path]:
    return files.pictures(f"{name} {key}", _PICTURES, [{"path": row[key]} for row in rows])


def _check_pictures(pool: list[dict[str, Any]], where: str) -> None:
    """Raise DataError for an entry that is not a picture alone, which these two pools do not have."""
    for row in pool:
        if row.get("txt") or row.get("modality", "image") != "image":
            raise DataError(f'{where}: "{row["did"]}" is no picture alone; give the local pool of the task')


def _relevant(files: BenchmarkFiles, name: str, place: dict[str, int], asked: list[str]) -> list[tuple[int, ...]]:
    """Return the pool positions of each query's relevant pictures. Raise DataError for a query without one."""
    path = files.paths[_qrels(name)]
    found: dict[str, tuple[int, ...]] = dict.fromkeys(asked, ())
    for number, line in enumerate(files.lines(_qrels(name))):
        parts, where = line.split(), f"{path} line {number}"
        if len(parts) != 5 or not parts[3].isdigit():
            raise DataError(f"{where} must be a query, 0, a picture, its relevance and a task number")
        query, _, picture, relevance, _ = parts
        if query not in found:
            raise DataError(f'{where}: the query "{query}" is not in {files.paths[_queries(name)]}')
        at = position_of(place, picture, where)
        if int(relevance) > 1:
            raise DataError(f"{where}: a relevance of {relevance}; these tasks have 0 and 1 alone")
        if int(relevance) and at not in found[query]:
            found[query] = (*found[query], at)
    without = next((query for query in asked if not found[query]), None)
    if without is not None:
        raise DataError(f'{path}: the query "{without}" has no relevant picture; the files are of different versions')
    return list(found.values())


MBEIR = Benchmark(
    name="mbeir",
    about="MTEB's CIRRIT2I and FashionIQIT2I: nDCG@10 over pools of all splits, no figure of CIRR or FashionIQ",
    splits=("test",),
    options={"task": (ALL_TASKS, *TASKS)},
    files=_files,
    build=_build,
    folders=("", "mbeir", "M-BEIR"),
    annotations="huggingface.co/datasets/TIGER-Lab/M-BEIR: query/test, cand_pool/local and qrels/test",
    pictures="mbeir_images.tar.gz.part-00 to -03 of TIGER-Lab/M-BEIR, as mbeir_images/",
    sizes="cirr: 4,170 queries, 21,551 pictures; fashioniq: 6,003 queries, 74,381 pictures",
    rule="nDCG@10 equals mteb 2.26 (trec_eval) but for ties and rounding; R@K equals UniIR@98dc570",
)
