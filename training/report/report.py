"""A run's log as curves, report.png, and in a few lines, report.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mllm_embed.errors import DataError
from mllm_embed.files import atomic_file, write_file

from .curves import draw
from .run_log import LOG_FILE, Line, read_log

PICTURE, TEXT = "report.png", "report.md"
_DPI = 110


def write_report(run: Path) -> list[str]:
    """Draw and tell what the run's log.jsonl holds so far, in the run's folder; returns the closing lines.

    Raises DataError for a folder without a log, or one that cannot be read.
    """
    path = run / LOG_FILE
    try:
        rows = read_log(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: give the output folder of a training run") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); its run cannot be reported") from error
    if not all({"stage", "step"} <= row.keys() for row in rows):
        raise DataError(f"{path} is damaged: it holds lines without stage and step; its run cannot be reported")
    if not rows:
        raise DataError(f"{path} is empty: the run has not made a step yet")
    with atomic_file(run / PICTURE) as temporary:
        draw(rows, run.resolve().name).savefig(temporary, format="png", dpi=_DPI)
    lines = summary(rows)
    warned = [f"- {row['stage']}, step {row['step']:,}: {row['warning']}" for row in rows if "warning" in row]
    told = [f"# Training run {run.resolve().name}", "", *(f"- {line}" for line in lines), ""]
    told += ["## Warnings", "", *warned, ""] if warned else []
    write_file(run / TEXT, "\n".join([*told, f"![curves]({PICTURE})", ""]).encode())
    return lines


def summary(rows: Sequence[Line]) -> list[str]:
    """One line a stage: how much it saw, how fast, what the losses and the validation came to."""
    stages = dict.fromkeys(row["stage"] for row in rows)
    return [f"{stage}: {_told([row for row in rows if row['stage'] == stage])}" for stage in stages]


def _told(rows: Sequence[Line]) -> str:
    steps = [row for row in rows if "loss" in row]
    if not steps:
        return "no step yet"
    seconds = sum(row["seconds"] for row in steps)
    total = {name: sum(row[name] for row in steps) for name in ("rows", "tokens", "pictures")}
    waiting = sum(row.get("data_wait", 0) * row["seconds"] for row in steps)
    parts = [
        f"{steps[-1]['step']:,} steps, {total['rows']:,} rows, {total['tokens']:,} tokens and "
        f"{total['pictures']:,} pictures in {_duration(seconds)}"
        + (
            f" ({total['tokens'] / seconds:,.0f} tokens/s, {waiting / seconds:.1%} waiting for data)" if seconds else ""
        ),
        f"peak memory {max(row['memory_gib'] for row in steps):.2f} GiB",
        f"loss {steps[0]['loss']:.4f} -> {steps[-1]['loss']:.4f}" + _terms(steps[-1]),
    ]
    unreadable = steps[-1].get("unreadable", 0)
    return "; ".join([*parts, *_validated(rows), *([f"{unreadable:,} unreadable rows"] if unreadable else [])])


def _terms(row: Line) -> str:
    losses = [f"{name[5:]} {value:.4f}" for name, value in row.items() if name.startswith("loss/")]
    return f" ({', '.join(losses)})" if len(losses) > 1 else ""


def _validated(rows: Sequence[Line]) -> list[str]:
    """The best validation, beside the one before the first step."""
    found = [row for row in rows if "recall@1" in row]
    later = [row for row in found if row["step"]]
    if not later:
        return []
    best = max(later, key=lambda row: (row["recall@1"], -row["step"]))
    told = f"best recall@1 {best['recall@1']:.4f} at step {best['step']:,}, which is kept"
    if len(found) == len(later):
        return [told]
    start = found[0]["recall@1"]
    worse = ", worse than before the stage" if best["recall@1"] < start else ""
    return [f"{told} (at the start {start:.4f}{worse})"]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
