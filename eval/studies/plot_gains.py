"""The gains of query-time methods as a picture: a bar each, with its interval, best at the top."""

from __future__ import annotations

from pathlib import Path

from mllm_embed.files import atomic_file

from ..scoring.paired import Difference
from .compare_methods import MethodComparison

GAINS_FILE = "gains.png"


def plot_gains(comparison: MethodComparison, path: Path) -> Path:
    """Write a PNG. Raise DataError where it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    gains = {name: result.gain for name, result in comparison.results.items() if result.gain}
    names = sorted(gains, key=lambda name: gains[name].points)
    shown = [gains[name] for name in names]
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # Percentiles of samples need not enclose the difference itself, and a bar cannot have a negative length.
    below = [max(0.0, gain.points - gain.low) for gain in shown]
    above = [max(0.0, gain.high - gain.points) for gain in shown]
    axes.barh(
        names,
        [gain.points for gain in shown],
        xerr=[below, above],
        color=[_colour(gain) for gain in shown],
        ecolor="black",
        capsize=2,
    )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"points of {comparison.headline} over the plain query, with 95 % intervals")
    axes.set_title(comparison.suite.title)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path


def _colour(gain: Difference) -> str:
    """Return grey for a gain whose interval holds 0, which may be chance."""
    if gain.low > 0:
        return "tab:green"
    return "tab:red" if gain.high < 0 else "tab:gray"
