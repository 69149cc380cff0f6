"""Results for people and for programs: text tables, result.json, a contact sheet."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.files import write_json
from mllm_embed.saving.versions import versions
from mllm_embed.search.contact_sheet import SheetRow, contact_sheet

from ..scoring.estimate import Estimate
from ..scoring.score import Result, TaskResult
from ..scoring.suite import Suite, Task

if TYPE_CHECKING:
    from mllm_embed.encode.embedder import MLLMEmbedder

SHEET_ANSWERS = 5
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
RESULT, PER_QUERY = "result.json", "per_query.json"


def result_table(result: Result) -> str:
    """Every task's rows, the first one with hits and 95 % intervals and by group, then the means, as aligned text."""
    blocks = [_block(_heading(name, task), task.rows, task.groups) for name, task in result.tasks.items()]
    if result.means:
        blocks.append(_block("means", result.means, {}))
    title = f"{result.title}: {result.protocol.get('ties', 'ranked lists')}"
    return "\n\n".join([title, *blocks, "\n".join([*_tied(result), *_spent(result)])]).rstrip()


def comparison_table(rows: Mapping[str, Mapping[str, Result]]) -> str:
    """Several models on several benchmark folders: `rows[model][benchmark]` -> aligned text, one line a model.

    For every benchmark: composed R@1, R@5, R@10 and mAP, then R@1 of image only, text only and sum, and of
    caption to image. A result that is missing shows as "-".
    """
    names = list(dict.fromkeys(name for results in rows.values() for name in results))
    head = ["R@1", "R@5", "R@10", "mAP", "img", "txt", "sum", "cap"]
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


def settings_of(embedder: MLLMEmbedder, model: str, adapter: str | Path | None) -> dict[str, str | int | None]:
    """What `write_result` says of the model: name, adapter, the precision it really computed in, cut vectors."""
    dtype = str(embedder.dtype).removeprefix("torch.")
    return {
        "model": model,
        "adapter": adapter and str(adapter),
        "dtype": dtype,
        "quantization": embedder.quantization,
        "dim": embedder.dim,
    }


def write_result(result: Result, suite: Suite, folder: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Write FOLDER/result.json (settings, figures, protocol, versions) and per_query.json (values, first answers).

    Raises:
        DataError: a file cannot be written.
    """
    tasks = {task.name: _per_query(task, result.tasks[task.name]) for task in suite.tasks}
    write_json(folder / PER_QUERY, {"tasks": tasks})
    write_json(folder / RESULT, {**settings, **result.to_dict(), "versions": versions()})
    return [folder / RESULT, folder / PER_QUERY]


def write_sheet(result: Result, suite: Suite, path: Path, count: int) -> Path | None:
    """Write a contact sheet of `count` composed queries spread over tasks and groups, with their first five answers.

    Returns:
        The path; None where no task has composed queries and a gallery of pictures.

    Raises:
        DataError: the file cannot be written. ImageError: a picture cannot be read.
    """
    tasks = [task for task in suite.tasks if task.composed and all(item.images for item in task.gallery)]
    places = [(task, position) for task in tasks for position in range(len(task.queries))]
    kinds = [(task.name, tuple(task.groups[at])[:1] if task.groups else ()) for task, at in places]
    rows = [_sheet_row(*places[at], result) for at in spread(kinds, count)]
    return contact_sheet(rows, path) if rows else None


def spread(kinds: Sequence[Hashable], count: int) -> list[int]:
    """Positions of up to `count` entries, as evenly as can be over the kinds and within each kind."""
    members: dict[Hashable, list[int]] = {}
    for position, kind in enumerate(kinds):
        members.setdefault(kind, []).append(position)
    shares = dict.fromkeys(members, 0)
    while sum(shares.values()) < min(count, len(kinds)):
        open_kinds = [kind for kind in members if shares[kind] < len(members[kind])]
        shares[min(open_kinds, key=lambda kind: shares[kind])] += 1
    return [
        positions[(2 * number + 1) * len(positions) // (2 * shares[kind])]
        for kind, positions in members.items()
        for number in range(shares[kind])
    ]


def _sheet_row(task: Task, position: int, result: Result) -> SheetRow:
    found = [int(at) for at in result.tasks[task.name].answers[position, :SHEET_ANSWERS] if at >= 0]
    right = set(task.views[0].targets[position])
    items = task.queries[position]
    words = items[0].words or ""
    pictures = [task.gallery[at].images[0] for at in found]
    return SheetRow(items[0].images[0], words, pictures, [at in right for at in found])  # type: ignore[arg-type]


def _per_query(task: Task, result: TaskResult) -> dict[str, Any]:
    return {
        "row": task.asked,
        "ids": list(task.query_ids),
        "metrics": {name: values.tolist() for name, values in result.values.items()},
        "answers": [[task.gallery_ids[at] for at in row if at >= 0] for row in result.answers.tolist()],
    }


def _heading(name: str, task: TaskResult) -> str:
    return f"{name + ': ' if name else ''}{task.queries:,} queries, gallery of {task.gallery:,}"


def _block(title: str, rows: Mapping[str, Mapping[str, Estimate]], groups: Mapping[str, Mapping[str, Estimate]]) -> str:
    """One task as text: its metrics side by side, those with a first word of their own ("soft") below."""
    first = next(iter(rows.values()))
    parts = [list(names) for _, names in groupby(first, key=lambda name: name.startswith("soft "))]
    return "\n".join([title, *[line for names in parts for line in _lines(names, rows, groups)]])


def _lines(
    names: Sequence[str], rows: Mapping[str, Mapping[str, Estimate]], groups: Mapping[str, Mapping[str, Estimate]]
) -> list[str]:
    lines = [["", *names]]
    for number, (row, figures) in enumerate(rows.items()):
        lines.append([row, *[f"{figures[name].percent:.2f}" for name in names]])
        if not number:
            lines.append(["  95 % interval", *[f"{figures[name].low:.1f}-{figures[name].high:.1f}" for name in names]])
            if any(figures[name].hits is not None for name in names):
                lines.append(["  hits", *["" if figures[n].hits is None else f"{figures[n].hits}" for n in names]])
    for group, figures in groups.items():
        if any(name in figures for name in names):
            count = next(iter(figures.values())).queries
            cells = [f"{figures[name].percent:.2f}" if name in figures else "" for name in names]
            lines.append([f"  {group} ({count})", *cells])
    return _aligned(lines)


def _tied(result: Result) -> list[str]:
    """A sentence for each task whose first row hangs on equal scores."""
    notes = []
    for name, task in result.tasks.items():
        tied = max((figure.tied or 0 for figure in next(iter(task.rows.values())).values()), default=0)
        if tied:
            where = f"{name}: " if name else ""
            notes.append(
                f"{where}up to {tied} queries a metric hang on equal scores "
                "(--ties optimistic and pessimistic give the bounds)"
            )
    return notes


def _spent(result: Result) -> list[str]:
    words = [f"{key.removesuffix(' seconds')} {value:.1f} s" for key, value in result.spent.items() if "seconds" in key]
    size = result.spent.get("index bytes")
    return [", ".join([*words, f"index {_size(size)}"])] if size else []


def _size(count: float) -> str:
    unit = next(unit for unit in _UNITS if count < 1000 ** (_UNITS.index(unit) + 1))
    return f"{count / 1000 ** _UNITS.index(unit):.3g} {unit}"


def _compared(result: Result) -> list[str]:
    composed = [f"{result.percent(name):.1f}" for name in ("R@1", "R@5", "R@10", "mAP")]
    baselines = [f"{result.percent('R@1', row):.1f}" for row in ("image only", "text only", "sum")]
    caption = f"{result.percent('R@1', task='captions'):.1f}" if "captions" in result.tasks else "-"
    return [*composed, *baselines, caption]


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
