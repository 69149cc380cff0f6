"""A run's log as curves, report.png, and in a few lines, report.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mllm_embed.errors import DataError, reason
from mllm_embed.files import atomic_file, write_file

from .curves import draw
from .run_log import LOG_FILE, Line, read_log

PICTURE, TEXT = "report.png", "report.md"
_DPI = 110
_NEEDED = ("loss", "rows", "tokens", "pictures", "seconds", "memory_gib")


def write_report(run: Path) -> list[str]:
    """Draw and sum up what the run's log.jsonl holds so far, in the run's folder; return the closing lines.

    Raise DataError for a folder without a log, or one that cannot be read.
    """
    rows = _read_rows(run / LOG_FILE)
    with atomic_file(run / PICTURE) as temporary:
        draw(rows, run.resolve().name).savefig(temporary, format="png", dpi=_DPI)
    lines = summary(rows)
    write_file(run / TEXT, _markdown(run.resolve().name, lines, rows).encode("utf-8", "backslashreplace"))
    return lines


def _read_rows(path: Path) -> list[Line]:
    try:
        rows = read_log(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: give the output folder of a training run") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    figures = [row.get(name) for row in rows if "loss" in row for name in _NEEDED]
    if not all(isinstance(figure, (int, float)) for figure in figures):
        raise DataError(f"{path} is damaged: a step lacks one of {', '.join(_NEEDED)}; its run cannot be reported")
    if not rows:
        raise DataError(f"{path} is empty: the run has not made a step yet")
    return rows


def _markdown(name: str, lines: Sequence[str], rows: Sequence[Line]) -> str:
    warnings = [f"- {row['stage']}, step {row['step']:,}: {row['warning']}" for row in rows if "warning" in row]
    written = [f"# Training run {name}", "", *(f"- {line}" for line in lines), ""]
    if warnings:
        written += ["## Warnings", "", *warnings, ""]
    return "\n".join([*written, f"![curves]({PICTURE})", ""])


def summary(rows: Sequence[Line]) -> list[str]:
    """Return one line a stage: how much it saw, how fast, what the losses and the validation came to."""
    by_stage: dict[str, list[Line]] = {}
    for row in rows:
        by_stage.setdefault(row["stage"], []).append(row)
    return [f"{stage}: {_stage_in_words(lines)}" for stage, lines in by_stage.items()]


def _stage_in_words(rows: Sequence[Line]) -> str:
    steps = [row for row in rows if "loss" in row]
    if not steps:
        return "no step yet"
    parts = [
        _amounts(steps),
        f"peak memory {max(row['memory_gib'] for row in steps):.2f} GiB",
        f"loss {steps[0]['loss']:.4f} -> {steps[-1]['loss']:.4f}" + _terms(steps[-1]),
        *_validated(rows),
    ]
    unreadable = steps[-1].get("unreadable", 0)
    if unreadable:
        parts.append(f"{unreadable:,} unreadable rows")
    return "; ".join(parts)


def _amounts(steps: Sequence[Line]) -> str:
    seconds, tokens = _total("seconds", steps), _total("tokens", steps)
    rows, pictures = _total("rows", steps), _total("pictures", steps)
    seen = f"{steps[-1]['step']:,} steps, {rows:,} rows, {tokens:,} tokens and {pictures:,} pictures"
    if not seconds:
        return f"{seen} in {_duration(seconds)}"
    waiting = sum(row.get("data_wait", 0) * row["seconds"] for row in steps)
    speed = f"{tokens / seconds:,.0f} tokens/s, {waiting / seconds:.1%} waiting for data"
    return f"{seen} in {_duration(seconds)} ({speed})"


def _total(name: str, steps: Sequence[Line]) -> float:
    return sum(row[name] for row in steps)


def _terms(row: Line) -> str:
    losses = [f"{name[5:]} {value:.4f}" for name, value in row.items() if name.startswith("loss/")]
    return f" ({', '.join(losses)})" if len(losses) > 1 else ""


def _validated(rows: Sequence[Line]) -> list[str]:
    """Return the best validation, beside the one before the first step; nothing where there was none."""
    validations = [row for row in rows if "recall@1" in row]
    later = [row for row in validations if row["step"]]
    if not later:
        return []
    best = max(later, key=lambda row: (row["recall@1"], -row["step"]))
    beside = "" if len(validations) == len(later) else _beside(best["recall@1"], validations[0]["recall@1"])
    return [f"best recall@1 {best['recall@1']:.4f} at step {best['step']:,}, which is kept{beside}"]


def _beside(best: float, start: float) -> str:
    worse = ", worse than before the stage" if best < start else ""
    return f" (at the start {start:.4f}{worse})"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
