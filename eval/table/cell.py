"""A finished cell on disk: a result folder, or a submission, and beside it what it was made of and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mllm_embed.data.trained_on import Leaks
from mllm_embed.errors import DataError
from mllm_embed.files import read_json, write_json

from ..reports.report import RESULT
from ..reports.saved_result import AGAIN, SavedResult, read_saved_result
from ..reports.submission import check_submission, read_submission
from ..scoring.evaluate import BASELINES
from ..scoring.suite import Suite, column
from .inputs import Inputs, differences

CELL, LEAKS = "cell.json", "leaks.json"
NEW = "new"
_FORMAT = 1
_OTHER_FORMAT = (KeyError, TypeError, ValueError, AttributeError)  # what reading content of another format raises


@dataclass(frozen=True)
class Cost:
    """What a cell took.

    Attributes:
        seconds: of embedding, ranking and writing; `loading` apart, which all benchmarks of a model share.
        loading: seconds until the model could be used.
        memory: the most bytes that the process held of its own meanwhile, the model among them.
        device_memory: the most bytes on the GPU, None on a CPU.
    """

    seconds: float
    loading: float
    memory: int
    device_memory: int | None = None


@dataclass(frozen=True)
class CellRecord:
    """What a cell was made of.

    Attributes:
        inputs: what decides its figures.
        code: digest of the code that made it.
        items: gallery entries and queries.
        cost: what it took.
        settings: of the model, as result.json says them.
        asked: how the benchmark was asked, as a protocol says it.
        files: the submission's, by name; empty for a result.
    """

    inputs: Inputs
    code: str
    items: int
    cost: Cost
    settings: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Write it to FOLDER/cell.json. Raise DataError where the disk fails."""
        write_json(folder / CELL, {"format": _FORMAT, **asdict(self)})


def read_record(folder: Path) -> CellRecord | None:
    """Return what a cell's folder says it was made of; None where there is none, or none of this version."""
    try:
        content = read_json(folder / CELL, "")
        if content.pop("format") != _FORMAT:
            return None
        cost, files = Cost(**content.pop("cost")), tuple(content.pop("files"))
        return CellRecord(**content, cost=cost, files=files)
    except (DataError, *_OTHER_FORMAT):
        return None


def is_others(folder: Path) -> bool:
    """Return whether a folder holds something that no table made, in whose place no cell may be put."""
    return folder.exists() and not (folder / CELL).is_file() and (not folder.is_dir() or any(folder.iterdir()))


def read_made(folder: Path, record: CellRecord, suite: Suite) -> SavedResult | None:
    """Return the result of a finished cell; None of a submission, which is checked. Raise DataError for damage."""
    if not record.files:
        return read_saved_result(folder)
    check_submission(suite, read_submission([folder / name for name in record.files]))
    return None


@dataclass(frozen=True)
class Halves:
    """What the halves of a benchmark's composed queries find, beside its headline.

    Attributes:
        rows: the headline in percent of the picture alone, of the words alone, and of their sum.
        gaps: metric or mean -> what the composed query has beyond its better half: points, and their 95 % interval. Of
            the headline's own task, or else of every task, a turn of sessions say, by its column.
    """

    rows: Mapping[str, float] = field(default_factory=dict)
    gaps: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


def read_halves(folder: Path, headline: str) -> Halves:
    """Return what a result says of the halves. Raise DataError for one that is damaged."""
    content = read_json(folder / RESULT, AGAIN)
    task, _, metric = headline.rpartition("/")
    means: Mapping[str, Any] = content["means"]
    rows = means if any(headline in own for own in means.values()) else content["tasks"][task]["rows"]
    key = headline if rows is means else metric
    found = {row: float(rows[row][key]["percent"]) for row in BASELINES if key in rows.get(row, {})}
    audits = content.get("composition") or content["tasks"].get(task, {}).get("composition") or _audits(content)
    return Halves(found, {name: _points(own["gap"]) for name, own in audits.items()})


def _audits(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the audit of every task by its first metric, by the names of their columns."""
    firsts = ((name, next(iter(own.get("composition", {}).items()), None)) for name, own in content["tasks"].items())
    return {column(name, first[0]): first[1] for name, first in firsts if first}


def _points(gap: Mapping[str, Any]) -> tuple[float, float, float]:
    return float(gap["percent"]), float(gap["low"]), float(gap["high"])


def why_again(folder: Path, record: CellRecord | None, inputs: Inputs) -> str:
    """Return why a cell has to be made again, or at all; "" for one that was made of the same inputs."""
    if record is None:
        return f"its {CELL} is damaged" if folder.exists() else NEW
    changed = differences(record.inputs, inputs)
    return "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")


def read_leaks(folder: Path, inputs: Inputs) -> Leaks | None:
    """Return the leaks that were counted of the same inputs; None where there are none."""
    try:
        content = read_json(folder / LEAKS, "")
        return Leaks(**content["leaks"]) if content["inputs"] == dict(inputs) else None
    except (DataError, *_OTHER_FORMAT):
        return None


def write_leaks(folder: Path, leaks: Leaks, inputs: Inputs) -> None:
    """Write what `read_leaks` reads. Raise DataError where the disk fails."""
    write_json(folder / LEAKS, {"leaks": leaks._asdict(), "inputs": dict(inputs)})
