"""A result folder, read again: the inverse of `report.write_result`, for `compare`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mllm_embed.errors import DataError
from mllm_embed.files import read_json
from mllm_embed.saving.result_file import read_result_file

from ..scoring.composition import HALVES
from ..scoring.sessions.found import AT_THE_END
from ..scoring.suite import column
from .report import PER_QUERY, RESULT

AGAIN = "run `mllm-embed-eval run` or `score` again"
_ONLY = "only"  # the word of a title that is no option, but names the queries that were chosen
# what reading content of another format raises
_OTHER_FORMAT = (KeyError, TypeError, ValueError, AttributeError, StopIteration, OverflowError)


@dataclass(frozen=True)
class PerQuery:
    """The content of per_query.json.

    Attributes:
        ids: by task.
        values: by column [Q] float64.
        references: by task [Q] int64, equal for queries that share a reference picture; without the tasks, or in older
            results all of them, of which that is not known.
        halves: "image only" and "text only" -> column -> [Q] float64; empty unless both are known of every task.
    """

    ids: Mapping[str, list[str]]
    values: Mapping[str, np.ndarray]
    references: Mapping[str, np.ndarray] = field(default_factory=dict)
    halves: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class Derived:
    """A column that is made of others, query by query.

    Attributes:
        percent: the figure.
        parts: by task [Q], whose means add up to it, in [0, 1].
        among: by task [Q] bool, the queries that it is over; empty where those are all.
    """

    percent: float
    parts: Mapping[str, np.ndarray] = field(repr=False, compare=False)
    among: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class SavedResult:
    """The content of a result folder.

    Attributes:
        model: and adapter; "" for given vectors.
        ties: the rule for equal scores, in words.
        pictures: a digest of the sizes of the picture files; None for given vectors, whose pictures nobody has seen.
        asked: prompts, words and tasks, as the protocol says; empty for given vectors.
        columns: column -> (task, metric).
        printed: metrics that papers print; empty for all.
        means: columns that are means over those -> what they are made of.
        estimates: column -> (percent, low, high), of the queries as asked.
        found: tasks that count what sessions find by turn; none without sessions.
        per_query: None without per_query.json.
        lower: metrics of which a smaller value is better.
        whole: metrics that say something of all queries together alone.
        interval: the rule of the intervals, in words.
        audited: task -> the metrics of its composition audit; empty without one.
        audited_means: those that have a composition gap.
        derived: columns that `compare` adds: composition gaps.
        label: what it is called; "" to be called after its folder or model.
        seeds: the results that it is the mean of, where it is of several seeds; empty for a single one.
    """

    folder: Path
    model: str
    name: str
    title: str
    fingerprint: str
    ties: str
    pictures: str | None
    columns: Mapping[str, tuple[str, str]]
    printed: tuple[str, ...]
    means: Mapping[str, tuple[str, ...]]
    estimates: Mapping[str, tuple[float, float, float]]
    asked: Mapping[str, Any] = field(default_factory=dict, repr=False)
    found: tuple[str, ...] = ()
    per_query: PerQuery | None = field(default=None, repr=False)
    lower: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    interval: str = ""
    audited: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    audited_means: tuple[str, ...] = ()
    derived: Mapping[str, Derived] = field(default_factory=dict)
    label: str = ""
    seeds: tuple[SavedResult, ...] = field(default=(), repr=False)

    @property
    def split(self) -> str:
        """The word of the title that is no option."""
        return next((word for word in self._words if "=" not in word), "")

    @property
    def options(self) -> dict[str, str]:
        """The options that the title names."""
        return {key: value for key, value in self._named.items() if key != _ONLY}

    @property
    def _named(self) -> dict[str, str]:
        options = {}
        for word in self._words:
            key, sign, value = word.partition("=")
            if sign:
                options[key] = value
        return options

    @property
    def shown(self) -> list[str]:
        """The columns that people print, the means last."""
        printed = (name for name, (_, metric) in self.columns.items() if metric in (self.printed or (metric,)))
        return list(dict.fromkeys([*printed, *self.means]))

    @property
    def headline(self) -> str:
        """What it is judged by: the last mean, what sessions find in the end, or the first of its columns."""
        if self.means:
            return self.shown[-1]
        return column(self.found[-1], AT_THE_END) if self.found else self.shown[0]

    @property
    def chosen(self) -> str:
        """The choice of queries that was measured, as `Suite.chosen`; "" for all."""
        return self._named.get(_ONLY, "")

    @property
    def _words(self) -> list[str]:
        return self.title.removeprefix(self.name).split()

    @property
    def protocol(self) -> tuple[str, str, str]:
        """What must be the same in results that share a table."""
        return self.title, self.ties, self.fingerprint


def read_saved_result(path: Path) -> SavedResult:
    """Read a result folder, or the result.json in one.

    Raises:
        DataError: it is missing, unreadable, of another format, or of other queries than it says.
    """
    file = path if path.is_file() else path / RESULT
    if not path.exists():
        raise DataError(f"{path} is missing: give a folder that `mllm-embed-eval run` or `score` wrote")
    if not file.exists():
        raise DataError(f"{path} has no {RESULT}: give a folder that `mllm-embed-eval run` or `score` wrote")
    content = read_result_file(file, AGAIN)
    try:
        result = _result(file.parent, content)
    except _OTHER_FORMAT as error:
        raise DataError(f"{file} is no result of this version ({error!r}): {AGAIN}") from error
    return replace(result, per_query=_per_query(result))


def check_once(results: Sequence[SavedResult]) -> None:
    """Raise DataError for a result that is given twice."""
    for folder, count in Counter(result.folder.resolve() for result in results).items():
        if count > 1:
            raise DataError(f"{folder} is given twice: a result cannot be compared with itself")


def _result(folder: Path, content: Any) -> SavedResult:
    name, title, fingerprint = (str(content["benchmark"][key]) for key in ("name", "title", "fingerprint"))
    columns: dict[str, tuple[str, str]] = {}
    estimates = {}
    for task, part in content["tasks"].items():
        for metric, saved in next(iter(part["rows"].values())).items():
            columns[column(task, metric)] = task, metric
            estimates[column(task, metric)] = _estimate(saved)
    means = {}
    for mean, saved in next(iter(content["means"].values()), {}).items():
        means[str(mean)] = tuple(map(str, content["means of"][mean]))
        estimates[mean] = _estimate(saved)
    return SavedResult(
        folder=folder,
        model=" + ".join(str(content[key]) for key in ("model", "adapter") if content.get(key)),
        name=name,
        title=title,
        fingerprint=fingerprint,
        ties=str(content["protocol"].get("ties", "none, ranked lists were given")),
        pictures=content["protocol"].get("pictures"),
        columns=columns,
        printed=tuple(map(str, content["benchmark"]["printed"])),
        means=means,
        estimates=estimates,
        asked=_asked(content["protocol"]),
        lower=tuple(map(str, content["benchmark"].get("lower is better", ()))),
        whole=tuple(map(str, content["benchmark"].get("of all queries alone", ()))),
        found=tuple(map(str, content.get("turns to find", ()))),
        interval=str(content["protocol"].get("interval", "")),
        audited={
            task: tuple(part["composition"]) for task, part in content["tasks"].items() if part.get("composition")
        },
        audited_means=tuple(content.get("composition", ())),
    )


def _asked(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return how queries and gallery were asked; nothing where only the maker of given vectors knows."""
    keys = ("prompts", "prompts by task", "words", "query task", "document task")
    return {key: protocol.get(key) for key in keys} if isinstance(protocol.get("prompts"), dict) else {}


def _estimate(saved: Mapping[str, Any]) -> tuple[float, float, float]:
    percent, low, high = (float(saved[key]) for key in ("percent", "low", "high"))
    if not all(map(math.isfinite, (percent, low, high))):
        raise ValueError("a figure is no number")
    return percent, low, high


def _per_query(result: SavedResult) -> PerQuery | None:
    """Read query ids and values, which must be those that the estimates were made of; None where there are none."""
    file = result.folder / PER_QUERY
    if not file.exists():
        return None
    content = read_json(file, AGAIN)
    try:
        ids = {task: list(map(str, part["ids"])) for task, part in content["tasks"].items()}
        values = {}
        for name, (task, metric) in result.columns.items():
            values[name] = np.asarray(content["tasks"][task]["metrics"][metric], dtype=np.float64)
        references = _references(content["tasks"], ids)
        halves = _halves(content["tasks"], result, ids)
    except _OTHER_FORMAT as error:
        raise DataError(f"{file} is not of this version ({error!r}): {AGAIN}") from error
    for name, (task, _) in result.columns.items():
        fits = values[name].shape == (len(ids[task]),)
        # The percentages are in the official scorer's arithmetic, float32 perhaps: nearly the mean, not exactly.
        if not fits or not abs(100 * values[name].mean() - result.estimates[name][0]) < 0.01:
            raise DataError(f"{file} and {RESULT} do not fit ({name}), they are of two runs: {AGAIN}")
    return PerQuery(ids, values, references, halves)


def _references(tasks: Mapping[str, Any], ids: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Return which queries share a picture, of the tasks that say so. Raises ValueError for other than one a query."""
    found = {}
    for task, part in tasks.items():
        if "references" in part:
            found[task] = np.asarray(part["references"], dtype=np.int64)
            _check_length(found[task], ids[task])
    return found


def _halves(
    tasks: Mapping[str, Any], result: SavedResult, ids: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, np.ndarray]]:
    """Return what each half has by itself in the audited tasks. Raises ValueError for other than one value a query."""
    if not result.audited or any("rows" not in tasks[task] for task in result.audited):
        return {}
    halves: dict[str, dict[str, np.ndarray]] = {row: {} for row in HALVES}
    for name, (task, metric) in result.columns.items():
        for row, own in halves.items():
            if task in result.audited:
                own[name] = np.asarray(tasks[task]["rows"][row]["metrics"][metric], dtype=np.float64)
                _check_length(own[name], ids[task])
    return halves


def _check_length(values: np.ndarray, ids: Sequence[str]) -> None:
    if values.shape != (len(ids),):
        raise ValueError("there is not one value for each query")
