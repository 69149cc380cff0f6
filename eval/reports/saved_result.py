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

from ..scoring.sessions.found import AT_THE_END
from ..scoring.suite import column
from .report import PER_QUERY, RESULT

AGAIN = "run `mllm-embed-eval run` or `score` again"
_ONLY = "only"  # the word of a title that is no option, but names the queries that were chosen
# what reading content of another format raises
_OTHER_FORMAT = (KeyError, TypeError, ValueError, AttributeError, StopIteration)


@dataclass(frozen=True)
class PerQuery:
    """The content of per_query.json: `ids` by task, `values` by column [Q] float64."""

    ids: Mapping[str, list[str]]
    values: Mapping[str, np.ndarray]


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


def read_saved_results(paths: Sequence[Path]) -> list[SavedResult]:
    """Return several results, each another one. Raises DataError as `read_saved_result`, and for one given twice."""
    results = [read_saved_result(Path(path)) for path in paths]
    for folder, count in Counter(result.folder.resolve() for result in results).items():
        if count > 1:
            raise DataError(f"{folder} is given twice: a result cannot be compared with itself")
    return results


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
    except _OTHER_FORMAT as error:
        raise DataError(f"{file} is not of this version ({error!r}): {AGAIN}") from error
    for name, (task, _) in result.columns.items():
        fits = values[name].shape == (len(ids[task]),)
        # The percentages are in the official scorer's arithmetic, float32 perhaps: nearly the mean, not exactly.
        if not fits or not abs(100 * values[name].mean() - result.estimates[name][0]) < 0.01:
            raise DataError(f"{file} and {RESULT} do not fit ({name}), they are of two runs: {AGAIN}")
    return PerQuery(ids, values)
