"""Results for people and for programs: text tables, result.json, a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mllm_embed.contact_sheet import SheetRow, contact_sheet
from mllm_embed.files import write_json
from mllm_embed.folder import Benchmark, BenchmarkQuery
from mllm_embed.versions import versions

from .evaluate import KS, ROWS, Result, Row

SHEET_ANSWERS = 5


def table(result: Result) -> str:
    """The rows of one result, then caption to image, then the composed row by kind, as aligned text."""
    head = ["", *[f"R@{k}" for k in KS], "mAP", "MRR", f"hits@{KS[0]}", "queries"]
    lines = [head, *[[name, *_cells(row)] for name, row in result.rows.items()]]
    if result.caption_to_image:
        lines.append(["caption to image", *_cells(result.caption_to_image)])
    if result.kinds:
        lines += [["composed, by kind", *[""] * (len(head) - 1)]]
        lines += [[f"  {kind}", *_cells(row)] for kind, row in result.kinds.items()]
    title = f"{result.benchmark}: {result.rows[ROWS[0]].queries} queries, gallery of {result.gallery}"
    return "\n".join([title, *_aligned(lines)])


def comparison_table(rows: Mapping[str, Mapping[str, Result]]) -> str:
    """Several models on several benchmarks: `rows[model][benchmark]` -> aligned text, one line a model.

    For every benchmark: composed R@1, R@5, R@10 and mAP, then R@1 of image only, text only and sum, and of
    caption to image. A result that is missing shows as "-".
    """
    names = list(dict.fromkeys(name for results in rows.values() for name in results))
    head = [*[f"R@{k}" for k in KS], "mAP", "img", "txt", "sum", "cap"]
    lines = [["", *head * len(names)]]
    for model, results in rows.items():
        cells = [_compared(results[name]) if name in results else ["-"] * len(head) for name in names]
        lines.append([model, *[cell for part in cells for cell in part]])
    groups = [1 + len(head) * number for number in range(1, len(names))]
    body = _aligned(lines, groups)
    width = (len(body[0]) - max(len(line[0]) for line in lines)) // max(1, len(names))
    first = body[0].index(head[0])
    titles = " " * first + "".join(name.ljust(width) for name in names)
    note = "R@K, mAP: composed; R@1 of img: picture alone, txt: instruction alone, sum: both, cap: caption to image"
    return "\n".join([titles.rstrip(), *body, note])


def write_result(result: Result, folder: Path, settings: Mapping[str, Any]) -> Path:
    """Write FOLDER/result.json: the settings (model, adapter, ...), the result and the package versions.

    Raises:
        DataError: the file cannot be written.
    """
    content = {**settings, **result.to_dict(), "versions": versions()}
    path = folder / "result.json"
    write_json(path, content)
    return path


def write_sheet(result: Result, benchmark: Benchmark, path: Path, count: int) -> Path:
    """Write a contact sheet of `count` composed queries spread over the kinds, with their first five answers.

    Raises:
        DataError: the file cannot be written. ImageError: a picture cannot be read.
    """
    rows = []
    for position in spread(benchmark.queries, count):
        query = benchmark.queries[position]
        found = [benchmark.gallery[at] for at in result.answers[position, :SHEET_ANSWERS].tolist() if at >= 0]
        right = [item.id in query.targets for item in found]
        rows.append(SheetRow(query.image, query.instruction, [item.image for item in found], right))
    return contact_sheet(rows, path)


def spread(queries: Sequence[BenchmarkQuery], count: int) -> list[int]:
    """Positions of up to `count` queries, as evenly as can be over the kinds and within each kind."""
    kinds: dict[str | None, list[int]] = {}
    for position, query in enumerate(queries):
        kinds.setdefault(query.kind, []).append(position)
    shares = dict.fromkeys(kinds, 0)
    while sum(shares.values()) < min(count, len(queries)):
        open_kinds = [kind for kind in kinds if shares[kind] < len(kinds[kind])]
        shares[min(open_kinds, key=lambda kind: shares[kind])] += 1
    return [
        positions[(2 * number + 1) * len(positions) // (2 * shares[kind])]
        for kind, positions in kinds.items()
        for number in range(shares[kind])
    ]


def _cells(row: Row) -> list[str]:
    recalls = [f"{row.percent(k):.1f}" for k in KS]
    return [*recalls, f"{100 * row.map:.1f}", f"{100 * row.mrr:.1f}", str(row.hits[KS[0]]), str(row.queries)]


def _compared(result: Result) -> list[str]:
    composed, *others = (result.rows[name] for name in ROWS)
    recalls = [f"{row.percent(1):.1f}" for row in others]
    caption = f"{result.caption_to_image.percent(1):.1f}" if result.caption_to_image else "-"
    return [*_cells(composed)[: len(KS) + 1], *recalls, caption]


def _aligned(lines: Sequence[Sequence[str]], groups: Sequence[int] = ()) -> list[str]:
    """Columns as wide as their widest cell, the first to the left, numbers right, wide gaps at `groups`."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    widths = [width + 3 * (column in groups) for column, width in enumerate(widths)]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
