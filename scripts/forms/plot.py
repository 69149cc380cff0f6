"""The rows as a picture: what a picture weighs against what is found first, a panel for each test and group of models.

A line joins the forms of a series by their bytes, where it has several sizes; the step is the front: what nothing as
small or smaller equals. The forms on it bear their names, which are put where they cover no point, no other name and no
edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mllm_embed.files import atomic_file

from .models import ALIKE, MODELS, SHIPPED, TESTS
from .rows import ROWS, SERIES
from .table import Found

_TITLES = {SHIPPED: "the shipped adapter, of 40,000 triplets", ALIKE: "adapters that the demo's recipe trains alike"}
_MARKERS = "osD^vP*X<>hpd8"
_COLOURS = (
    "tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "dimgray", "olive",
    "tab:cyan", "navy", "darkgoldenrod", "crimson", "black",
)  # fmt: skip
_APART = ("FDE", "FDE and MaxSim", "dense and words")  # series that are no ladder of sizes
_STYLES = ("-", "--", ":")  # of the first model of a panel that has a series, and of others
# points from a point to its name, the free side of a front first
_PLACES = [(x * far, y * far) for far in (1, 2, 3.5, 5) for x, y in (
    (-8, 6), (0, 9), (-12, 0), (8, 6), (8, -7), (0, -10), (-8, -7), (12, 0))]  # fmt: skip
_ROOM = 1.6  # pixels between names, and between a name and a point


@dataclass(frozen=True)
class Point:
    """A form in a panel: its row, its bytes, and R@1 in percent."""

    title: str
    bytes: float
    first: float


def points(found: Found, test: str, group: str) -> list[Point]:
    """Return the forms of a group of models on a test, the smallest first."""
    of_group = [title for title in found if MODELS[ROWS[title].model].group == group]
    all_of_it = [Point(t, found[t][test].bytes, 100 * float(np.mean(found[t][test].first))) for t in of_group]
    return sorted(all_of_it, key=lambda point: (point.bytes, -point.first))


def front(some: Iterable[Point]) -> list[Point]:
    """Return the points, given by their bytes, that find more than all that are as small or smaller."""
    best: list[Point] = []
    for point in some:
        if not best or point.first > best[-1].first:
            best.append(point)
    return best


def draw(found: Found, path: Path) -> None:
    """Write a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = [group for group in _TITLES if any(points(found, test, group) for test in TESTS)]
    figure = Figure(figsize=(15, 1.4 + 5.6 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(groups), len(TESTS), squeeze=False, sharex="row", sharey="row")
    named = []
    for group, line in zip(groups, panels, strict=True):
        for test, axes in zip(TESTS, line, strict=True):
            own = points(found, test, group)
            named.append((axes, own, front(own)))
            _panel(axes, own, front(own))
            axes.set_title(f"{test} objects: {_TITLES[group]}", fontsize=11)
    _legend(figure, panels)
    figure.draw_without_rendering()  # after which places are settled
    for axes, own, best in named:
        name_front(axes, own, best)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _panel(axes: Any, own: Sequence[Point], best: Sequence[Point]) -> None:
    for key, series in _by_series(own).items():
        number = SERIES.index(key)
        look = {"color": _COLOURS[number % len(_COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
        for line, style in zip(series.values(), _STYLES, strict=False):
            sizes, firsts = [point.bytes for point in line], [point.first for point in line]
            style = "none" if key in _APART else style
            axes.plot(sizes, firsts, linestyle=style, **look, markersize=5, linewidth=0.9, alpha=0.85, label=key)
    axes.step([p.bytes for p in best], [p.first for p in best], where="post", color="black", linewidth=1.6, zorder=0.5,
              alpha=0.5, label="the front")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.margins(x=0.08, y=0.1)
    axes.grid(alpha=0.25)
    axes.tick_params(labelbottom=True)
    axes.set_xlabel("bytes a picture")
    axes.set_ylabel("R@1, %")


def _by_series(own: Sequence[Point]) -> dict[str, dict[str, list[Point]]]:
    """Return the points of each series, and in it of each model, by their bytes."""
    lines: dict[str, dict[str, list[Point]]] = {}
    for point in own:
        row = ROWS[point.title]
        lines.setdefault(row.series, {}).setdefault(row.model, []).append(point)
    return lines


def _legend(figure: Any, panels: np.ndarray) -> None:
    shown: dict[str, Any] = {}
    for axes in panels.flat:
        handles, labels = axes.get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True)) | shown
    order = [name for name in (*SERIES, "the front") if name in shown]
    figure.legend([shown[name] for name in order], order, loc="outside lower center", ncols=7, fontsize=10)


def name_front(axes: Any, own: Sequence[Point], best: Sequence[Point]) -> Mapping[str, Any]:
    """Write names at the points of the front, each in the first place where it covers nothing, and return what was
    written by the titles of rows; a name without such a place is left out. The figure must be laid out."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    scale = axes.figure.dpi / 72
    at = axes.transData.transform([(point.bytes, point.first) for point in own])
    taken = [Bbox.from_bounds(x - 3 * scale, y - 3 * scale, 6 * scale, 6 * scale) for x, y in at]
    lines, written = _by_series(own), {}
    for point in best:
        row = ROWS[point.title]
        text = f"{row.series}, {row.name}" + (f" ({row.model})" if len(lines[row.series]) > 1 else "")
        for x, y in _PLACES:
            note = axes.annotate(
                text, (point.bytes, point.first), xytext=(x, y), textcoords="offset points", fontsize=8.5,
                ha="left" if x > 0 else "right" if x < 0 else "center", va="center",
                arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "gray"},
                bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.7},
            )  # fmt: skip
            note.get_window_extent()  # which puts it in its place
            box = Text.get_window_extent(note).padded(_ROOM * scale)  # without the line to its point
            if _inside(box, axes.bbox) and not any(map(box.overlaps, taken)):
                taken.append(box)
                written[point.title] = note
                break
            note.remove()
    return written


def _inside(box: Any, other: Any) -> bool:
    return bool(box.x0 > other.x0 and box.x1 < other.x1 and box.y0 > other.y0 and box.y1 < other.y1)
