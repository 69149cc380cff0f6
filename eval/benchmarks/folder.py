"""Anyone's own benchmark: the folder format of `mllm_embed.folder`."""

from __future__ import annotations

from typing import Any

from mllm_embed.data.folder import DataFolder, FolderBenchmark, open_benchmark
from mllm_embed.errors import DataError
from mllm_embed.types import Document, Query

from ..scoring.metrics import MAP, MRR, mean_average_precision, recall
from ..scoring.suite import Suite, Task, View
from .base import Benchmark, BenchmarkFiles, Count, Options

KS = (1, 5, 10)
METRICS = (*recall(KS), MAP, MRR, *mean_average_precision(KS))
CAPTIONS = "captions"


def suite_of(benchmark: FolderBenchmark) -> Suite:
    """The composed queries, and as a task of its own every gallery caption, which asks for its picture.

    Raises:
        DataError: no queries, a query without a target, or an id that is not in the gallery.
    """
    gallery = [Document(image=item.image, text=item.text) for item in benchmark.gallery]
    ids = [item.id for item in benchmark.gallery]
    place = {item.id: position for position, item in enumerate(benchmark.gallery)}
    targets, exclude = _positions(benchmark, place)
    kinds = [() if query.kind is None else (query.kind,) for query in benchmark.queries]
    tasks = [
        Task(
            name="",
            gallery_ids=ids,
            gallery=gallery,
            query_ids=[query.id for query in benchmark.queries],
            queries=[(Query(image=query.image, instruction=query.instruction),) for query in benchmark.queries],
            views=(View(METRICS, targets, exclude=exclude),),
            groups=kinds if any(kinds) else (),
            by_group=tuple(metric.name for metric in METRICS),
            paraphrases=_given([query.paraphrases for query in benchmark.queries]),
            negatives=_given([[place[name] for name in query.negatives] for query in benchmark.queries]),
        )
    ]
    told = [item for item in benchmark.gallery if item.caption is not None]
    if told:
        same: dict[str | None, list[int]] = {}
        for position, item in enumerate(benchmark.gallery):
            same.setdefault(item.caption, []).append(position)
        asked = [(Document(text=item.caption),) for item in told]
        right = [same[item.caption] for item in told]
        tasks.append(Task(CAPTIONS, ids, gallery, [item.id for item in told], asked, (View(METRICS, right),)))
    protocol = {
        "gallery": "as in benchmark.json, in its order",
        "query text": "the instruction as it stands",
        "excluded": _exclusion(benchmark),
        "R@K": "any target among the first K",
        "mAP": "mean over queries of the average precision over the whole ranking",
        "mAP@K": "precisions at the targets among the first K, summed and divided by min(targets, K)",
        "MRR": "mean over queries of 1 / rank of the best placed target",
        CAPTIONS: "each gallery caption asks for its picture; one with the same caption counts too",
    }
    return Suite(benchmark.name, "", {}, tuple(tasks), (), (), protocol)


def _given(lists: list[Any]) -> list[Any]:
    """The lists of all queries; none where none has any."""
    return lists if any(lists) else []


def _positions(benchmark: FolderBenchmark, place: dict[str, int]) -> tuple[list[list[int]], list[list[int]]]:
    for query in benchmark.queries:
        lost = [name for name in (*query.targets, *query.exclude, *query.negatives) if name not in place]
        if lost or not query.targets:
            wrong = f'"{lost[0]}" is not in the gallery' if lost else "it has no target"
            raise DataError(f'query "{query.id}" of benchmark {benchmark.name}: {wrong}')
    targets = [[place[name] for name in query.targets] for query in benchmark.queries]
    return targets, [[place[name] for name in query.exclude] for query in benchmark.queries]


def _exclusion(benchmark: FolderBenchmark) -> str:
    count = sum(bool(query.exclude) for query in benchmark.queries)
    if not count:
        return "nothing: every query ranks the whole gallery, its own reference picture included if it is there"
    return f"the gallery ids under exclude, which {count} of {len(benchmark.queries)} queries have"


def _build(source: BenchmarkFiles, split: str, options: Options) -> Suite:
    benchmark = open_benchmark(source.data, pictures=source.look and source.strict)
    if not source.strict:
        found = DataFolder.open(source.data, pictures=False).pictures()
        lost = [f"{path} {wrong}" for path, wrong in found.items() if wrong]
        source.counts.append(Count("pictures", len(found) - len(lost), len(found), lost[0] if lost else None))
    return suite_of(benchmark)


FOLDER = Benchmark(
    name="folder",
    about="your own: a folder with a benchmark.json (the README tells its format)",
    splits=("",),
    options={},
    files=lambda split, options: {"benchmark.json": ("benchmark.json",)},
    build=_build,
    annotations="the README, under `Your own data`",
)
