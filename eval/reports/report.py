"""Results for people and for programs: text tables, result.json, a contact sheet."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_embed.files import write_json
from mllm_embed.saving.result_file import READ
from mllm_embed.saving.versions import versions
from mllm_embed.search.contact_sheet import SheetRow, contact_sheet

from ..benchmarks.folder import CAPTIONS
from ..scoring.estimate import Estimate
from ..scoring.evaluate import BASELINES
from ..scoring.paired import Difference
from ..scoring.result import Result, TaskResult
from ..scoring.sessions.found import TurnsToFind, found_tasks
from ..scoring.suite import Suite, Task
from .composition import audit_cells, gap_lines, gap_sentence

if TYPE_CHECKING:
    from mllm_embed.encode.dual_encoder import DualEncoder
    from mllm_embed.encode.embedder import MLLMEmbedder

SHEET_ANSWERS = 5
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
RESULT, PER_QUERY, CONTACT_SHEET = "result.json", "per_query.json", "contact_sheet.png"
_COMPARED = ["R@1", "R@5", "R@10", "mAP", "img", "txt", "sum", "cap"]  # the columns of `comparison_table`
Rows = Mapping[str, Mapping[str, Estimate]]
Lines = list[list[str]]
_TURNS = "turns to find; a session that never does counts a turn more than it has"
_GAINS = (
    "gains of carrying the past: points at the end over the last turn alone by the same protocol, 95 % interval, and p "
    "corrected for the rules (Holm), both by first picture"
)


def result_table(result: Result) -> str:
    """Return the rows of every task and the means as aligned text; the first row with hits, intervals, groups
    and the composition audit."""
    blocks = []
    for title, parts in result_blocks(result):
        lines = [[part] if isinstance(part, str) else _aligned(part) for part in parts]
        blocks.append("\n".join([title, *chain.from_iterable(lines)]))
    title = f"{result.title}: {result.protocol.get('ties', 'ranked lists')}"
    return "\n\n".join([title, *blocks, "\n".join([*tied_notes(result), *_spent(result)])]).rstrip()


def result_blocks(result: Result) -> list[tuple[str, list[Lines | str]]]:
    """Return what is said of every task, of the means and of sessions, under a title each.

    Tables are lines of cells, the head first: what belongs to the row above it has a first cell that begins with a
    space. Other lines are text.
    """
    found = [(_heading(name, task), _task_parts(task)) for name, task in result.tasks.items()]
    if result.means:
        found.append(("means", [*_tables(result.means, {}, _as_they_are(result.means)), *gap_lines(result.gaps)]))
    if result.turns:
        found.append((_TURNS, [_turns_to_find(result.turns)]))
    if result.gains_of_rules:
        found.append((_GAINS, [_gains_of_rules(result.gains_of_rules)]))
    return found


def _task_parts(task: TaskResult) -> list[Lines | str]:
    """Return a task's tables, and the audit of each metric below them."""
    parts: list[Lines | str] = [*_tables(task.rows, task.groups, _named_once(task.row_values))]
    for metric, audit in task.composition.items():
        parts += [audit_cells(metric, audit), gap_sentence(metric, audit)]
    return parts


def comparison_table(rows: Mapping[str, Mapping[str, Result]]) -> str:
    """Return several models on several benchmark folders as aligned text, one line a model.

    `rows[model][benchmark]`. For every benchmark: composed R@1, R@5, R@10 and mAP, then R@1 of image only, text only
    and sum, and of caption to image. A result that is missing shows as "-".
    """
    names = list(dict.fromkeys(name for results in rows.values() for name in results))
    lines = [["", *_COMPARED * len(names)]]
    for model, results in rows.items():
        line = [model]
        for name in names:
            line += _compared(results[name]) if name in results else ["-"] * len(_COMPARED)
        lines.append(line)
    body = _aligned(lines, range(1 + len(_COMPARED), len(lines[0]), len(_COMPARED)))
    width = (len(body[0]) - max(len(line[0]) for line in lines)) // max(1, len(names))
    titles = " " * body[0].index(_COMPARED[0]) + "".join(name.ljust(width) for name in names)
    note = "R@K, mAP: composed; R@1 of img: picture alone, txt: instruction alone, sum: both, cap: caption to image"
    return "\n".join([titles.rstrip(), *body, note])


def settings_of(
    embedder: MLLMEmbedder | DualEncoder,
    model: str,
    adapter: str | Path | None,
    query_model: str | None = None,
    query_adapter: str | Path | None = None,
) -> dict[str, Any]:
    """Return what `write_result` says of a model: names, the precision it really computed in, cut vectors, and what it
    reads of an input where that is not all.

    Args:
        embedder: the loaded model.
        model, adapter: as they were named.
        query_model, query_adapter: of the small model of a `DualEncoder`.
    """
    dtype = str(embedder.dtype).removeprefix("torch.")
    settings: dict[str, Any] = {
        "model": model,
        "adapter": adapter and str(adapter),
        "dtype": dtype,
        "quantization": embedder.quantization,
        "dim": embedder.dim,
    }
    asking: Any = getattr(embedder, "query", embedder)
    thoughts = asking.settings.thoughts
    made_by = embedder.provenance["settings"] | ({"thoughts": thoughts.tokens} if thoughts else {})
    settings |= {told: made_by[key] for key, told in READ.items() if key in made_by}
    if query_model:
        settings |= {"query model": query_model, "query adapter": query_adapter and str(query_adapter)}
    return settings


def write_result(result: Result, suite: Suite, folder: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Write FOLDER/result.json (settings, estimates, protocol, versions) and per_query.json (values, first answers).

    Raises:
        DataError: a file cannot be written.
    """
    tasks = {task.name: _per_query(task, result.tasks[task.name]) for task in _measured(suite, result)}
    write_json(folder / PER_QUERY, {"tasks": tasks})
    # last: a folder with a result is whole
    write_json(folder / RESULT, {**settings, **result.to_dict(), "versions": versions()})
    return [folder / RESULT, folder / PER_QUERY]


def _measured(suite: Suite, result: Result) -> list[Task]:
    """Return the tasks of a suite, and those that count what its sessions find by turn where that was measured."""
    return [*suite.tasks, *(task for task in found_tasks(suite) if task.name in result.tasks)]


def write_sheet(result: Result, suite: Suite, path: Path, count: int) -> Path | None:
    """Write a contact sheet of `count` composed queries spread over tasks and groups, with their first five answers.

    Returns:
        The path; None where no task has composed queries and a gallery of pictures.

    Raises:
        DataError: the file cannot be written. ImageError: a picture cannot be read.
    """
    places = [(task, position) for task in suite.tasks if _is_shown(task) for position in range(len(task.queries))]
    kinds = [_kind(task, position) for task, position in places]
    rows = [_sheet_row(*places[at], result) for at in spread(kinds, count)]
    return contact_sheet(rows, path) if rows else None


def _is_shown(task: Task) -> bool:
    return task.composed and all(item.images for item in task.gallery)


def _kind(task: Task, position: int) -> tuple[str, tuple[str, ...]]:
    """Return a query's task and its first group, over which the contact sheet is spread."""
    return task.name, tuple(task.groups[position][:1]) if task.groups else ()


def spread(kinds: Sequence[Hashable], count: int) -> list[int]:
    """Return the positions of up to `count` entries, as evenly as can be over the kinds and within each kind."""
    members: dict[Hashable, list[int]] = {}
    for position, kind in enumerate(kinds):
        members.setdefault(kind, []).append(position)
    shares = dict.fromkeys(members, 0)
    while sum(shares.values()) < min(count, len(kinds)):
        not_exhausted = [kind for kind in members if shares[kind] < len(members[kind])]
        # the kind with the fewest so far; the first of equal ones
        shares[min(not_exhausted, key=lambda kind: shares[kind])] += 1
    chosen = []
    for kind, positions in members.items():
        # the middles of as many equal parts
        chosen += [positions[(2 * part + 1) * len(positions) // (2 * shares[kind])] for part in range(shares[kind])]
    return chosen


def _sheet_row(task: Task, position: int, result: Result) -> SheetRow:
    answers = [int(at) for at in result.tasks[task.name].answers[position, :SHEET_ANSWERS] if at >= 0]
    targets = set(task.views[0].targets[position])
    query = task.queries[position][0]
    pictures = [task.gallery[at].images[0] for at in answers]
    return SheetRow(query.images[0], query.words or "", pictures, [at in targets for at in answers])


def _per_query(task: Task, result: TaskResult) -> dict[str, Any]:
    rows = {row: _row(task, result, row) for row in result.rows}
    about = {"row": task.query_kind, "ids": list(task.query_ids), "references": task.references.tolist()}
    audits = list(result.composition.values())
    labels = {"composition": audits[0].labels.tolist()} if audits else {}
    return {**about, **labels, **rows[task.query_kind], "rows": rows}


def _row(task: Task, result: TaskResult, row: str) -> dict[str, Any]:
    """Return what per_query.json keeps of one row of a task's table."""
    return {
        "metrics": {name: values.tolist() for name, values in result.row_values[row].items()},
        "ranks": result.row_ranks[row].tolist(),
        "answers": [_answer_ids(task, positions) for positions in result.row_answers[row].tolist()],
    }


def _answer_ids(task: Task, positions: Sequence[int]) -> list[str]:
    return [task.gallery_ids[at] for at in positions if at >= 0]


def _heading(name: str, task: TaskResult) -> str:
    return f"{name + ': ' if name else ''}{task.queries:,} queries, gallery of {task.gallery:,}"


def _named_once(values: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, str]:
    """Return the metrics that are shown, and what each is called: what is one number once, as "R@1 = mAP@1".

    Two metrics are one number that look at as many answers and have the same value for every query in every row of the
    table, as average precision and reciprocal rank where each query has one target.
    """
    first: dict[tuple[str, bytes], str] = {}
    called: dict[str, str] = {}
    for name in next(iter(values.values())):
        content = b"".join(row[name].tobytes() for row in values.values())
        same = first.setdefault((name.partition("@")[2], content), name)
        called[same] = name if same == name else f"{called[same]} = {name}"
    return called


def _as_they_are(rows: Rows) -> dict[str, str]:
    return {name: name for name in next(iter(rows.values()))}


def _tables(rows: Rows, groups: Rows, called: Mapping[str, str]) -> list[Lines]:
    """Return a task's metrics side by side, in a table of their own those with a first word of their own ("soft").

    `called`: the metrics that are shown, and their heads.
    """
    kinds = groupby(called, key=lambda name: name.startswith("soft "))
    tables = []
    for _, names in kinds:
        tables.append(_lines({name: called[name] for name in names}, rows, groups))
    return tables


def _turns_to_find(turns: Mapping[str, Mapping[str, TurnsToFind]]) -> Lines:
    """Return in how many turns the sessions of each row find a target, with the interval of the first row."""
    names = list(turns)
    lines = [["", *names]]
    for number, row in enumerate(next(iter(turns.values()))):
        own = [turns[name][row] for name in names]
        lines.append([row, *[f"{one.mean:.2f}" for one in own]])
        if not number:
            lines.append(["  95 % interval", *[f"{one.low:.2f}-{one.high:.2f}" for one in own]])
    return lines


def _gains_of_rules(gains: Mapping[str, Mapping[str, Difference]]) -> Lines:
    """Return what each rule gains in each task: points, interval, corrected p."""
    heads = chain.from_iterable((name, "95 %", "p, Holm") for name in gains)
    lines = [["", *heads]]
    for row in next(iter(gains.values())):
        cells: list[str] = []
        for own in (rows[row] for rows in gains.values()):
            cells += [f"{own.points:+.2f}", f"{own.low:+.2f} to {own.high:+.2f}", f"{own.p_holm:.4f}"]
        lines.append([row, *cells])
    return lines


def _lines(names: Mapping[str, str], rows: Rows, groups: Rows) -> Lines:
    lines = [["", *names.values()]]
    for number, (row, estimates) in enumerate(rows.items()):
        lines.append([row, *[f"{estimates[name].percent:.2f}" for name in names]])
        if not number:
            lines += _details([estimates[name] for name in names])
    for group, estimates in groups.items():
        if estimates.keys() & set(names):
            count = next(iter(estimates.values())).queries
            cells = [f"{estimates[name].percent:.2f}" if name in estimates else "" for name in names]
            lines.append([f"  {group} ({count})", *cells])
    return lines


def _details(estimates: Sequence[Estimate]) -> Lines:
    """Return the lines of intervals and, where they are counted, hits."""
    lines = [["  95 % interval", *[f"{estimate.low:.1f}-{estimate.high:.1f}" for estimate in estimates]]]
    if any(estimate.hits is not None for estimate in estimates):
        lines.append(["  hits", *["" if estimate.hits is None else f"{estimate.hits}" for estimate in estimates]])
    return lines


def tied_notes(result: Result) -> list[str]:
    """Return a sentence for each task whose first row hangs on equal scores."""
    notes = []
    for name, task in result.tasks.items():
        first = next(iter(task.rows.values()))
        tied = max((estimate.tied or 0 for estimate in first.values()), default=0)
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
    baselines = [f"{result.percent('R@1', row):.1f}" for row in BASELINES]
    caption = f"{result.percent('R@1', task=CAPTIONS):.1f}" if CAPTIONS in result.tasks else "-"
    return [*composed, *baselines, caption]


def _aligned(lines: Sequence[Sequence[str]], groups: Sequence[int] = ()) -> list[str]:
    """Return lines with columns as wide as their widest cell: words to the left, numbers right, gaps at `groups`."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for column in groups:
        widths[column] += 3
    return [_aligned_line(line, widths) for line in lines]


def _aligned_line(line: Sequence[str], widths: Sequence[int]) -> str:
    first = line[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
    return "  ".join([first, *rest]).rstrip()
