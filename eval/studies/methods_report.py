"""A trial of query-time methods for people and programs: a table, methods.json, and a result folder for each method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mllm_embed.files import write_json
from mllm_embed.saving.versions import versions

from ..reports.report import write_result
from ..reports.tables import ReportTable, markdown
from ..scoring.paired import FLIPS
from .compare_methods import MethodResult, Trial, figure_of
from .plot_gains import PICTURE, draw_gains

METHODS = "methods.json"


def trial_table(trial: Trial) -> str:
    """Every method's headline, its gain over the plain query with interval and p, seconds and needs, as Markdown."""
    columns = _columns(trial)
    head = ["method", "settings", *columns, "gain", "95 %", "p", "ms a query", "s once", "needs"]
    rows = [_row(name, tried, trial, columns) for name, tried in trial.tried.items()]
    tuned = f"on {trial.tuned_on}, for methods with a grid" if trial.tuned_on else "defaults, chosen on nothing here"
    notes = [
        f"{trial.suite.title}: gains on {trial.headline}, over the plain query, in points; interval of 1,000 bootstrap "
        f"samples, p of {FLIPS:,} sign flips, not corrected for the number of methods.",
        f"Settings: {tuned}. Embedding all once took {trial.spent['embedding seconds']:.1f} s; ms a query: encoding "
        "what the method looks at, and its own work.",
    ]
    return markdown([*notes, ReportTable(head, rows)])


def write_trial(trial: Trial, folder: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Write methods.json, gains.png, and a folder for every method, as `python -m eval compare` reads them.

    Raises DataError where a file cannot be written.
    """
    for name, tried in trial.tried.items():
        if tried.result is not None:
            about = {**settings, "method": name, "method settings": dict(tried.settings)}
            write_result(tried.result, trial.suite, folder / name.replace(" ", "-"), about)
    rows = {name: _dict(tried, trial) for name, tried in trial.tried.items()}
    content = {
        **settings,
        "benchmark": trial.suite.title,
        "fingerprint": trial.suite.fingerprint(),
        "headline": trial.headline,
        "tuned on": trial.tuned_on or None,
        "spent": dict(trial.spent),
        "methods": rows,
        "versions": versions(),
    }
    write_json(folder / METHODS, content)
    drawn = [draw_gains(trial, folder / PICTURE)] if any(tried.gain for tried in trial.tried.values()) else []
    return [folder / METHODS, *drawn]


def _columns(trial: Trial) -> list[str]:
    """The metrics of the first view of each task that fit a table: those that papers print, and the means."""
    columns = [mean.name for mean in trial.suite.means]
    for task in trial.suite.tasks:
        names = [metric.name for metric in task.views[0].metrics]
        names = [name for name in names if name in (trial.suite.printed or names[:3])]
        columns += [f"{task.name}/{name}" if task.name else name for name in names]
    return list(dict.fromkeys([trial.headline, *columns]))


def _row(name: str, tried: MethodResult, trial: Trial, columns: list[str]) -> list[str]:
    settings = ", ".join(f"{key} {value:g}" for key, value in tried.settings.items()) or "–"
    needs = tried.method.needs if tried.method else "–"
    if tried.result is None:
        return [name, settings, *["–"] * (len(columns) + 5), f"not run: {tried.refused}"]
    gain = ["–"] * 3
    if tried.gain:
        gain = [f"{tried.gain.points:+.2f}", f"{tried.gain.low:+.2f} to {tried.gain.high:+.2f}", f"{tried.gain.p:.4f}"]
    figures = [f"{figure_of(tried.result, column).percent:.2f}" for column in columns]
    once = f"{tried.once:.1f}" if tried.once else "–"
    return [name, settings, *figures, *gain, f"{1000 * tried.seconds:.1f}", once, needs]


def _dict(tried: MethodResult, trial: Trial) -> dict[str, Any]:
    method = tried.method
    return {
        "settings": dict(tried.settings),
        "value": None if tried.result is None else figure_of(tried.result, trial.headline).percent,
        "gain": tried.gain and asdict(tried.gain),
        "seconds a query": tried.seconds,
        "seconds once": tried.once,
        "refused": tried.refused or None,
        **({"about": method.about, "source": method.source, "needs": method.needs} if method else {}),
    }
