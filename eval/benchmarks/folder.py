"""A benchmark of one's own: the folder format of `mllm_embed.data.folder`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mllm_embed.data.folder import BENCHMARK, BenchmarkQuery, DataFolder, FolderBenchmark, open_benchmark
from mllm_embed.errors import DataError
from mllm_embed.types import Document, Query

from ..scoring.metrics import MAP, MRR, mean_average_precision, recall
from ..scoring.sessions.turns import SESSION_RULES, Session, turn_tasks
from ..scoring.suite import Suite, Task, View
from .base import Benchmark, BenchmarkFiles, Count, Options, positions_by_id

KS = (1, 5, 10)
METRICS = (*recall(KS), MAP, MRR, *mean_average_precision(KS))
CAPTIONS = "captions"


def suite_of(benchmark: FolderBenchmark) -> Suite:
    """Return the composed queries, the turns of sessions, and every gallery caption, which asks for its picture: each a
    task of its own.

    Raises:
        DataError: no queries and no sessions, a query without a target, or an id that is not in the gallery.
    """
    gallery = [Document(image=item.image, text=item.text) for item in benchmark.gallery]
    turns = _turns(benchmark, gallery)
    tasks = [_composed_task(benchmark, gallery)] if benchmark.queries or not turns else []
    tasks += turns
    if any(item.caption is not None for item in benchmark.gallery):
        # the same list object, so that the pictures are encoded once for both tasks
        tasks.append(_caption_task(benchmark, gallery))
    protocol = {
        "gallery": "as in benchmark.json, in its order",
        "query text": "the instruction as it stands",
        "excluded": _exclusion(benchmark),
        "R@K": "any target among the first K",
        "mAP": "mean over queries of the average precision over the whole ranking",
        "mAP@K": "precisions at the targets among the first K, summed and divided by min(targets, K)",
        "MRR": "mean over queries of 1 / rank of the best placed target",
        CAPTIONS: "each gallery caption asks for its picture; one with the same caption counts too",
        **(SESSION_RULES if turns else {}),
    }
    names = tuple(task.name for task in turns)
    return Suite(benchmark.name, "", {}, tuple(tasks), (), (), protocol, names)


def _turns(benchmark: FolderBenchmark, gallery: list[Document]) -> tuple[Task, ...]:
    place = positions_by_id([item.id for item in benchmark.gallery])
    sessions = []
    for own in benchmark.sessions:
        turns = [Query(turn.image, turn.instruction) for turn in own.turns]
        sessions.append(
            Session(own.id, turns, _positions(place, own.targets), _positions(place, own.exclude), own.kind)
        )
    return turn_tasks(sessions, [item.id for item in benchmark.gallery], gallery, (*recall(KS), MRR), "R@1")


def _composed_task(benchmark: FolderBenchmark, gallery: list[Document]) -> Task:
    ids = [item.id for item in benchmark.gallery]
    place = positions_by_id(ids)
    query_ids, queries, targets, exclude, negatives, kinds = [], [], [], [], [], []
    for query in benchmark.queries:
        _check_ids(query, place, benchmark.name)
        query_ids.append(query.id)
        queries.append((Query(image=query.image, instruction=query.instruction, avoid=query.avoid),))
        targets.append(_positions(place, query.targets))
        exclude.append(_positions(place, query.exclude))
        negatives.append(_positions(place, query.negatives))
        kinds.append(() if query.kind is None else (query.kind,))
    return Task(
        name="",
        gallery_ids=ids,
        gallery=gallery,
        query_ids=query_ids,
        queries=queries,
        views=(View(METRICS, targets, exclude=exclude),),
        groups=kinds if any(kinds) else (),
        by_group=tuple(metric.name for metric in METRICS),
        found_at=("R@1",),
        paraphrases=_given([query.paraphrases for query in benchmark.queries]),
        negatives=_given(negatives),
    )


def _caption_task(benchmark: FolderBenchmark, gallery: list[Document]) -> Task:
    same: dict[str | None, list[int]] = {}
    for position, item in enumerate(benchmark.gallery):
        # pictures with the same words are equally right answers to them
        same.setdefault(item.caption, []).append(position)
    captioned = [item for item in benchmark.gallery if item.caption is not None]
    return Task(
        name=CAPTIONS,
        gallery_ids=[item.id for item in benchmark.gallery],
        gallery=gallery,
        query_ids=[item.id for item in captioned],
        queries=[(Query(text=item.caption),) for item in captioned],
        views=(View(METRICS, [same[item.caption] for item in captioned]),),
    )


def _positions(place: dict[str, int], ids: Sequence[str]) -> list[int]:
    return [place[name] for name in ids]


def _given(lists: list[Any]) -> list[Any]:
    """Return the lists of all queries; none where none has any."""
    return lists if any(lists) else []


def _check_ids(query: BenchmarkQuery, place: dict[str, int], name: str) -> None:
    """Raise DataError for a query without a target, and for an id that is not in the gallery."""
    missing = [other for other in (*query.targets, *query.exclude, *query.negatives) if other not in place]
    if missing or not query.targets:
        wrong = f'"{missing[0]}" is not in the gallery' if missing else "it has no target"
        raise DataError(f'query "{query.id}" of benchmark {name}: {wrong}')


def _exclusion(benchmark: FolderBenchmark) -> str:
    excluded = [query.exclude for query in benchmark.queries] + [session.exclude for session in benchmark.sessions]
    count, what = sum(map(bool, excluded)), "queries and sessions" if benchmark.sessions else "queries"
    if not count:
        return "nothing: every query ranks the whole gallery, its own reference picture included if it is there"
    return f"the gallery ids under exclude, which {count} of {len(excluded)} {what} have"


def _build(files: BenchmarkFiles, split: str, options: Options) -> Suite:
    benchmark = open_benchmark(files.data, pictures=files.look and files.strict and not files.lenient)
    if not files.strict:
        pictures = DataFolder.open(files.data, pictures=False).pictures()
        missing = [f"{path} {wrong}" for path, wrong in pictures.items() if wrong]
        count = Count("pictures", len(pictures) - len(missing), len(pictures), missing[0] if missing else None)
        files.counts.append(count)
    return suite_of(benchmark)


FOLDER = Benchmark(
    name="folder",
    about="your own: a folder with a benchmark.json (eval/README.md has its format)",
    sizes="yours",
    rule="R@K, mAP, mAP@K and MRR, by kind; what a query excludes is left out; of sessions R@K and found@K by turn",
    splits=("",),
    options={},
    files=lambda split, options: {BENCHMARK: (BENCHMARK,)},
    build=_build,
    annotations="eval/README.md, under `Your own data`",
)
