"""The gains of query-time methods as a picture: a bar each, with its interval, best at the top."""

from __future__ import annotations

from pathlib import Path

from mllm_embed.files import atomic_file

from .compare_methods import Trial

PICTURE = "gains.png"


def draw_gains(trial: Trial, path: Path) -> Path:
    """Write a PNG. Raises DataError where it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    gains = {name: tried.gain for name, tried in trial.tried.items() if tried.gain}
    names = sorted(gains, key=lambda name: gains[name].points)
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = [gains[name] for name in names]
    points = [gain.points for gain in shown]
    spread = [[gain.points - gain.low for gain in shown], [gain.high - gain.points for gain in shown]]
    colours = ["tab:green" if gain.low > 0 else "tab:red" if gain.high < 0 else "tab:gray" for gain in shown]
    axes.barh(
        names,
        points,
        xerr=[[max(0.0, part) for part in side] for side in spread],
        color=colours,
        ecolor="black",
        capsize=2,
    )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"points of {trial.headline} over the plain query, with 95 % intervals")
    axes.set_title(trial.suite.title)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path
