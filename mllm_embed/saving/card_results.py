"""Results of `mllm-embed-eval run` on a model card: figures in its header, tables in its text."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .result_file import READ, RESULT_FILE, read_result_file

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


def read_card_result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a result.json, given itself or by its folder. Raises DataError for anything else."""
    place = Path(path) / RESULT_FILE if Path(path).is_dir() else Path(path)
    return read_result_file(place, "give a folder that `mllm-embed-eval run` wrote, or the result.json in it")


def eval_results(result: Mapping[str, Any]) -> list[EvalResult]:
    """Return an entry for every printed figure of a task's own row and of the means, not for the baselines beside."""
    from huggingface_hub import EvalResult

    about = result["benchmark"]
    return [
        EvalResult(
            task_type="image-retrieval", task_name="Composed image retrieval",
            dataset_type=about["name"], dataset_name=about["title"], dataset_config=part.name,
            dataset_args={"fingerprint": about["fingerprint"], **part.counts},
            metric_type=metric, metric_name=metric,
            metric_value=round(next(iter(part.rows.values()))[metric]["percent"], 4),
        )
        for part in _parts(result)
        for metric in part.metrics
    ]  # fmt: skip


def results_section(old: str, results: Sequence[Mapping[str, Any]]) -> str:
    """Return the section, a block for each benchmark; a newer result replaces that of the same benchmark in `old`."""
    blocks = {}
    for block in re.split(r"(?m)^(?=### )", old):
        if block.startswith("### "):
            blocks[block.splitlines()[0][4:]] = block.strip()
    for result in results:
        about = result["benchmark"]
        blocks[about["title"]] = "\n\n".join([f"### {about['title']}", *_result_tables(result), _conditions(result)])
    return "In percent, by `mllm-embed-eval run`.\n\n" + "\n\n".join(blocks.values())


class _Part(NamedTuple):
    """A task's rows, or those of the means over tasks."""

    name: str
    heading: str
    rows: Mapping[str, Mapping[str, Any]]
    metrics: list[str]
    counts: dict[str, int]
    composition: Mapping[str, Any] = {}


def _parts(result: Mapping[str, Any]) -> list[_Part]:
    printed, parts = result["benchmark"].get("printed"), []
    for name, task in result["tasks"].items():
        counts = {"queries": task["queries"], "gallery": task["gallery"]}
        heading = f"{name or 'composed'}: {counts['queries']:,} queries, gallery of {counts['gallery']:,}"
        first = next(iter(task["rows"].values()))
        parts.append(
            _Part(
                name or "default",
                heading,
                task["rows"],
                [m for m in first if m in (printed or first)],
                counts,
                task.get("composition", {}),
            )
        )
    if means := result.get("means"):
        parts.append(
            _Part("means", "means", means, list(next(iter(means.values()))), {}, result.get("composition", {}))
        )
    return parts


def _result_tables(result: Mapping[str, Any]) -> list[str]:
    tables = []
    for part in _parts(result):
        lines = [[part.heading, *part.metrics]]
        for row, figures in part.rows.items():
            lines.append([row, *[f"{figures[m]['percent']:.2f}" if m in figures else "" for m in part.metrics]])
        tables.append("\n".join(markdown_table(lines)))
        tables += [_composition(metric, audit) for metric, audit in part.composition.items()]
    return tables


def _composition(metric: str, audit: Mapping[str, Any]) -> str:
    """Return what composing adds at a metric: the gap, and, where it is known, what either half finds alone."""
    gap = audit["gap"]
    points = f"{gap['percent']:+.2f} points ({gap['low']:.1f} to {gap['high']:.1f})"
    said = f"Composition gap at {metric}: {points} over {audit['better half']}"
    if "found by" not in audit:
        return f"{said}."
    shares = [f"{label} {own['queries']:,} ({own['percent']:.1f} %)" for label, own in audit["found by"].items()]
    needing = audit["found by"].get("neither", {}).get("composed")
    among = f", {needing['percent']:+.2f} among those that neither finds" if needing else ""
    return f"{said}{among}. Queries found by {', '.join(shares)}."


def _conditions(result: Mapping[str, Any]) -> str:
    """Return under what conditions figures were measured, without which they cannot be compared."""
    facts = {
        "precision": result.get("dtype"),
        "weights in": result.get("quantization"),
        "vectors cut to": result.get("dim"),
    }
    facts |= {told: result.get(told) for told in READ.values()}
    facts |= {"ties": result.get("protocol", {}).get("ties")}
    facts |= {"benchmark": result["benchmark"]["fingerprint"][:12]}
    return "; ".join(f"{name}: {value}" for name, value in facts.items() if value) + "."


def markdown_table(lines: Sequence[Sequence[Any]]) -> list[str]:
    """Return the Markdown lines of a table; the first of `lines` is its head."""
    head, *rest = map(_markdown_row, lines)
    return [head, "|" + " --- |" * len(lines[0]), *rest]


def _markdown_row(line: Sequence[Any]) -> str:
    cells = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in line)
    return f"| {' | '.join(cells)} |"
