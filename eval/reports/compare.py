"""Results side by side: a table for each protocol, beside it what papers report, and a paired test of every two runs.

What was measured by other rules, on another split or on other files never shares a table, and the text says why.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.files import read_json

from ..scoring.estimate import RESAMPLES
from ..scoring.paired import FLIPS, paired, weights
from .report import PER_QUERY, RESULT
from .tables import STYLES, Block, Heading, ReportTable

_AGAIN = "run `python -m eval run` or `score` again"


@dataclass(frozen=True)
class Run:
    """What a result folder holds.

    Attributes:
        model: and adapter; "" for given vectors.
        ties: the rule for equal scores, in words.
        tasks: column -> (task, metric).
        printed: metrics that papers print; empty for all.
        means: columns that are means over those -> what they are made of.
        figures: column -> (percent, low, high), of the queries as asked.
        ids, values: by task, and by column [Q]; None without per_query.json.
    """

    folder: Path
    model: str
    name: str
    title: str
    fingerprint: str
    ties: str
    tasks: Mapping[str, tuple[str, str]]
    printed: tuple[str, ...]
    means: Mapping[str, tuple[str, ...]]
    figures: Mapping[str, tuple[float, float, float]]
    ids: Mapping[str, list[str]] | None = field(default=None, repr=False)
    values: Mapping[str, np.ndarray] | None = field(default=None, repr=False)

    @property
    def split(self) -> str:
        """The word of the title that is no option."""
        return next((word for word in self._words if "=" not in word), "")

    @property
    def options(self) -> dict[str, str]:
        """The options that the title names."""
        return dict(word.split("=", 1) for word in self._words if "=" in word)

    @property
    def _words(self) -> list[str]:
        return self.title.removeprefix(self.name).split()


def compare(folders: Sequence[Path], style: str) -> str:
    """Tables of results, by benchmark and protocol, as text.

    Args:
        folders: output folders of `python -m eval run` or `score`, or the result.json in them.
        style: "markdown" or "latex" (for the package booktabs).

    Raises:
        DataError: a result is missing, unreadable, of another format, given twice, or of other queries than it says.
        ConfigError: an unknown style.
    """
    if style not in STYLES:
        raise ConfigError(f"the format is one of {', '.join(STYLES)}, not '{style}'")
    runs = [read_run(Path(folder)) for folder in folders]
    twice = [folder for folder, count in Counter(run.folder.resolve() for run in runs).items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]} is given twice: a result cannot be compared with itself")
    names = dict.fromkeys(run.name for run in runs)
    blocks = [block for name in names for block in _benchmark([run for run in runs if run.name == name])]
    return STYLES[style](blocks)


def published(benchmark: str) -> list[dict[str, Any]]:
    """Rows of published.yaml, all values as text: 33.90 stays as it was printed."""
    text = Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    return [row for row in yaml.load(text, Loader=yaml.BaseLoader) if row["benchmark"] == benchmark]


def read_run(path: Path) -> Run:
    """A result. Raises DataError as `compare`."""
    file = path if path.is_file() else path / RESULT
    if not path.exists():
        raise DataError(f"{path} is missing: give a folder that `python -m eval run` or `score` wrote")
    if not file.exists():
        raise DataError(f"{path} has no {RESULT}: give a folder that `python -m eval run` or `score` wrote")
    content = read_json(file, _AGAIN)
    try:
        about = [str(content["benchmark"][key]) for key in ("name", "title", "fingerprint")]
        model = " + ".join(str(content[key]) for key in ("model", "adapter") if content.get(key))
        ties = str(content["protocol"].get("ties", "none, ranked lists were given"))
        firsts = {task: next(iter(part["rows"].values())) for task, part in content["tasks"].items()}
        tasks = {_column(task, metric): (task, metric) for task, row in firsts.items() for metric in row}
        over = next(iter(content["means"].values()), {})
        printed = tuple(map(str, content["benchmark"]["printed"]))
        means = {str(name): tuple(map(str, content["means of"][name])) for name in over}
        figures = {column: _figure(firsts[task][metric]) for column, (task, metric) in tasks.items()}
        figures |= {name: _figure(figure) for name, figure in over.items()}
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise DataError(f"{file} is no result of this version ({error!r}): {_AGAIN}") from error
    if not tasks:
        raise DataError(f"{file} holds no figures: {_AGAIN}")
    values = _per_query(file.parent, tasks, figures)
    return Run(file.parent, model, *about, ties, tasks, printed, means, figures, *values)


def _column(task: str, metric: str) -> str:
    return f"{task}/{metric}" if task else metric


def _figure(figure: Mapping[str, Any]) -> tuple[float, float, float]:
    percent, low, high = (float(figure[key]) for key in ("percent", "low", "high"))
    if not all(map(math.isfinite, (percent, low, high))):
        raise ValueError("a figure is no number")
    return percent, low, high


def _per_query(
    folder: Path, tasks: Mapping[str, tuple[str, str]], figures: Mapping[str, tuple[float, float, float]]
) -> tuple[dict[str, list[str]] | None, dict[str, np.ndarray] | None]:
    """Query ids and values, which must be those that the figures were made of."""
    file = folder / PER_QUERY
    if not file.exists():
        return None, None
    content = read_json(file, _AGAIN)
    try:
        ids = {task: [str(name) for name in part["ids"]] for task, part in content["tasks"].items()}
        values = {
            column: np.asarray(content["tasks"][task]["metrics"][metric], dtype=np.float64)
            for column, (task, metric) in tasks.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{file} is not of this version ({error!r}): {_AGAIN}") from error
    for column, (task, _) in tasks.items():
        fits = values[column].shape == (len(ids[task]),)
        if not fits or not abs(100 * values[column].mean() - figures[column][0]) < 0.01:
            raise DataError(f"{file} and {RESULT} do not fit ({column}), they are of two runs: {_AGAIN}")
    return ids, values


def _benchmark(runs: Sequence[Run]) -> Iterable[Block]:
    """All that is said of one benchmark: a section for each protocol."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.title, run.ties, run.fingerprint), []).append(run)
    first = runs[0]
    for group in groups.values():
        yield Heading(group[0].title)
        if group[0] is not first:
            yield f"A table of its own, not to be compared with the first: {_other(first, group[0])}."
        yield f"Ties: {group[0].ties}. Fingerprint: {group[0].fingerprint[:12]}."
        yield from _results(group)
        yield from _tests(group)


def _other(first: Run, run: Run) -> str:
    """How the protocol of a run is not that of the first one."""
    here, there = ({"split": r.split, **r.options, "ties": r.ties} for r in (run, first))
    keys = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    if keys:
        return "; ".join(f"{key}: {here.get(key)} (there {there.get(key)})" for key in keys)
    return f"the fingerprint there is {first.fingerprint[:12]}: ids, words or targets differ"


def _results(runs: Sequence[Run]) -> Iterable[Block]:
    """Our table, and the published rows: in it where they are of its split, below it where not."""
    run, columns = runs[0], _columns(runs)
    # a folder of one's own may bear any benchmark's name, but has neither split nor options
    known = published(run.name) if run.split or run.options else []
    rows = [row for row in known if set(row["metrics"]) & set(columns)]
    fit = [row for row in rows if row.get("options", {}).items() <= run.options.items()]
    beside = [row for row in fit if row["split"] == run.split]
    yield _table(columns, _ours(runs, columns, bool(beside)), beside)
    for options in dict.fromkeys(" ".join(map("=".join, row["options"].items())) for row in rows if row not in fit):
        yield f"Published results are left out: they are for {options}."
    for split in dict.fromkeys(row["split"] for row in fit if row not in beside):
        yield f"Published, on another split: {split}, not {run.split}. Not to be compared number by number with ours."
        yield _table(columns, [], [row for row in fit if row["split"] == split])


def _columns(runs: Sequence[Run]) -> list[str]:
    """The columns that people print, the means last."""
    columns = dict.fromkeys(
        column for run in runs for column, (_, metric) in run.tasks.items() if metric in (run.printed or (metric,))
    )
    return list(columns | dict.fromkeys(column for run in runs for column in run.means))


def _ours(runs: Sequence[Run], columns: Sequence[str], mixed: bool) -> list[dict[str, str]]:
    """Rows for `_table`; `mixed`: with published ones, so that they must say whose they are."""
    headline = columns[-1] if runs[0].means else columns[0]
    more = {"split": runs[0].split, "source": "ours"} if mixed else {}
    rows = []
    for label, run in zip(_labels(runs), runs, strict=True):
        row = {column: f"{run.figures[column][0]:.2f}" for column in columns if column in run.figures}
        interval = "{1:.2f} to {2:.2f}".format(*run.figures[headline]) if headline in row else ""
        rows.append({"method": label, **row, _interval(headline): interval, **more})
    return rows


def _interval(column: str) -> str:
    return f"95 % of {column}"


def _labels(runs: Sequence[Run]) -> list[str]:
    """Folder names where they tell the runs apart, otherwise the models, otherwise the paths."""
    for labels in ([run.folder.resolve().name for run in runs], [run.model for run in runs]):
        if len(set(labels)) == len(labels) and not {"", runs[0].name} & set(labels):
            return labels
    return [str(run.folder) for run in runs]


def _table(columns: Sequence[str], ours: list[dict[str, str]], rows: Sequence[Mapping[str, Any]]) -> ReportTable:
    """Lines of ours, then published ones; what no line has is no column."""
    lines = [*ours, *({**row, **row["metrics"]} for row in rows)]
    head = ["method", "backbone", "setting", "split", *columns, *map(_interval, columns), "source"]
    head = [key for key in head if any(line.get(key) for line in lines)]
    best = set()
    for at, key in enumerate(head):
        found = {number: float(line[key]) for number, line in enumerate(lines) if key in columns and line.get(key)}
        if len(found) > 1:
            best |= {(number, at) for number, value in found.items() if value == max(found.values())}
    return ReportTable(head, [[line.get(key) or "–" for key in head] for line in lines], frozenset(best))


def _tests(runs: Sequence[Run]) -> Iterable[Block]:
    """The paired tests of a group: every pair of runs, every column."""
    if len(runs) < 2:
        return
    labels = {run.folder: label for run, label in zip(runs, _labels(runs), strict=True)}
    tested = [run for run in runs if run.values is not None]
    for run in runs:
        if run.values is None:
            yield f"No paired test of {labels[run.folder]}: its folder has no {PER_QUERY}."
    columns = [column for column in _columns(runs) if all(weights(column, run.means, run.tasks) for run in tested)]
    rows = []
    for base, run in itertools.combinations(tested, 2):
        for column, found in zip(columns, paired(_differences(base, run, columns)), strict=True):
            interval = f"{found.low:+.2f} to {found.high:+.2f}"
            pair = labels[run.folder], labels[base.folder]
            rows.append([*pair, column, f"{found.points:+.2f}", interval, f"{found.p:.4f}"])
    if rows:
        yield (
            f"Paired tests on the same queries: the difference in points, its 95 % interval from {RESAMPLES:,} "
            f"bootstrap samples, two-sided p from {FLIPS:,} random sign flips, not corrected for the number of tests."
        )
        yield ReportTable(["run", "minus", "column", "difference", "95 %", "p"], rows)


def _differences(base: Run, run: Run, columns: Sequence[str]) -> list[np.ndarray]:
    """For each task [Q, M]: what each query adds to the difference of each column."""
    parts = []
    for task in dict.fromkeys(task for task, _ in base.tasks.values()):
        if run.ids.get(task) != base.ids[task]:
            where = f"task {task}: " if task else ""
            raise DataError(
                f"{where}the query ids in {base.folder / PER_QUERY} and {run.folder / PER_QUERY} differ, though both "
                f"results have the same fingerprint: {_AGAIN}"
            )
        part = np.zeros((len(base.ids[task]), len(columns)))
        for at, column in enumerate(columns):
            for name, weight in weights(column, base.means, base.tasks).items():
                if base.tasks[name][0] == task:
                    part[:, at] += weight * (run.values[name] - base.values[name])
        parts.append(part)
    return parts
