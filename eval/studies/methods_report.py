"""A comparison of methods for people and programs: a table, methods.json, and a result folder for each method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mllm_embed.files import write_json
from mllm_embed.saving.versions import versions

from ..reports.report import write_result
from ..reports.tables import ReportTable, markdown
from ..scoring.estimate import RESAMPLES
from ..scoring.paired import FLIPS, holm_note
from ..scoring.suite import column
from .compare_methods import MethodComparison, MethodResult, estimate_of
from .plot_gains import GAINS_FILE, plot_gains

METHODS = "methods.json"
_NOTHING = "–"


def methods_table(comparison: MethodComparison) -> str:
    """Return every method's headline, its gain with interval and p, seconds and needs, as Markdown."""
    columns = _columns(comparison)
    head = ["method", "settings", *columns, "gain", "95 %", "p", "p, Holm", "ms a query", "s once", "needs"]
    rows = [_row(name, result, columns) for name, result in comparison.results.items()]
    tuned = "defaults, chosen on nothing here"
    if comparison.tuned_on:
        tuned = f"on {comparison.tuned_on}, for methods with a grid"
    notes = [
        f"{comparison.suite.title}: gains on {comparison.headline}, over the plain query, in points; interval of "
        f"{RESAMPLES:,} bootstrap samples, p of {FLIPS:,} sign flips, both by reference picture. "
        f"{holm_note(_tested(comparison), 'methods')}",
        f"Settings: {tuned}. Embedding all once took {comparison.spent['embedding seconds']:.1f} s; ms a query: "
        "encoding what the method looks at, and its own work.",
    ]
    return markdown([*notes, ReportTable(head, rows)])


def write_methods(comparison: MethodComparison, folder: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Write methods.json, gains.png, and a folder for every method, as `mllm-embed-eval compare` reads them.

    Raises DataError where a file cannot be written.
    """
    for name, result in comparison.results.items():
        if result.result is not None:
            about = {**settings, "method": name, "method settings": dict(result.settings)}
            write_result(result.result, comparison.suite, folder / name.replace(" ", "-"), about)
    content = {
        **settings,
        "benchmark": comparison.suite.title,
        "fingerprint": comparison.suite.fingerprint(),
        "headline": comparison.headline,
        "tuned on": comparison.tuned_on or None,
        "tests": {"count": _tested(comparison), "p_holm": "p, corrected for that number (Holm, 1979)"},
        "spent": dict(comparison.spent),
        "methods": {name: _dict(result, comparison.headline) for name, result in comparison.results.items()},
        "versions": versions(),
    }
    write_json(folder / METHODS, content)
    written = [folder / METHODS]
    if any(result.gain for result in comparison.results.values()):
        written.append(plot_gains(comparison, folder / GAINS_FILE))
    return written


def _tested(comparison: MethodComparison) -> int:
    """Return how many methods were tested against the plain query, the family that p is corrected for."""
    return sum(result.gain is not None for result in comparison.results.values())


def _columns(comparison: MethodComparison) -> list[str]:
    """Return the metrics of the first view of each task that fit a table: those that papers print, and the means."""
    suite = comparison.suite
    columns = [comparison.headline, *(mean.name for mean in suite.means)]
    for task in suite.tasks:
        names = [metric.name for metric in task.views[0].metrics]
        columns += [column(task.name, name) for name in names if name in (suite.printed or names[:3])]
    return list(dict.fromkeys(columns))


def _row(title: str, result: MethodResult, columns: list[str]) -> list[str]:
    settings = ", ".join(f"{key} {value:g}" for key, value in result.settings.items()) or _NOTHING
    if result.result is None:
        return [title, settings, *[_NOTHING] * (len(columns) + 6), f"not run: {result.refused}"]
    values = [f"{estimate_of(result.result, name).percent:.2f}" for name in columns]
    gain, once = [_NOTHING] * 4, _NOTHING
    if result.gain:
        points, low, high = result.gain.points, result.gain.low, result.gain.high
        gain = [f"{points:+.2f}", f"{low:+.2f} to {high:+.2f}", f"{result.gain.p:.4f}", f"{result.gain.p_holm:.4f}"]
    if result.once:
        once = f"{result.once:.1f}"
    needs = result.method.needs if result.method else _NOTHING
    return [title, settings, *values, *gain, f"{1000 * result.seconds:.1f}", once, needs]


def _dict(result: MethodResult, headline: str) -> dict[str, Any]:
    method = result.method
    about = {"about": method.about, "source": method.source, "needs": method.needs} if method else {}
    return {
        "settings": dict(result.settings),
        "value": None if result.result is None else estimate_of(result.result, headline).percent,
        "gain": result.gain and asdict(result.gain),
        "seconds a query": result.seconds,
        "seconds once": result.once,
        "refused": result.refused or None,
        **about,
    }
