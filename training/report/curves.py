"""The curves of a run's log: one figure, a panel a subject, the stages one after the other on the step axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from .run_log import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """A subject of the figure.

    Args:
        title: of the panel.
        names: the log's names that belong to it, each drawn in its own style; NAME/ is one curve a term.
        scale: linear or log.
        bottom: of the axis; by default that of the curves.
        top: of the axis; by default that of the curves.
        often_fixed: draw the panel only where the figures change.
    """

    title: str
    names: tuple[str, ...]
    scale: str = "linear"
    bottom: float | None = None
    top: float | None = None
    often_fixed: bool = False


PANELS = (
    Panel("loss", ("loss", "loss/"), bottom=0),
    Panel("accuracy in the batch", ("accuracy/",), bottom=0, top=1),
    Panel("recall on the validation", ("recall@1", "recall@5", "recall@10"), bottom=0),
    Panel("cosine: positive —, hardest negative - -", ("positive/", "hardest/")),
    Panel("mean cosine of all vectors", ("mean_cosine",)),
    Panel("temperature", ("temperature",), often_fixed=True),
    Panel("learning rate", ("learning_rate",), bottom=0),
    Panel("rates of temperature or centroids —, projector - -, vision tower ···", ("learning_rate/",), scale="log"),
    Panel("norm of the gradient", ("grad_norm",), scale="log"),
    Panel("share of the time waiting for data", ("data_wait",), bottom=0, top=1),
    Panel("tokens per second", ("tokens_per_s",), bottom=0),
    Panel("pictures per second", ("pictures_per_s",), bottom=0),
    Panel("peak memory, GiB", ("memory_gib",), bottom=0),
)
_COLUMNS = 3
_LETTER = 0.014  # of a panel's width
_FEW = 30  # steps, whose points are marked
_INK, _PALE = "#333333", "#b8b8b8"
_DASHES = {"hardest/": "--", "learning_rate/projector": "--", "learning_rate/vision": ":"}
_OWN = {"recall@1": "#1f4e79", "recall@5": "#5b9bd5", "recall@10": "#a9cbe8"}
Curves: TypeAlias = dict[tuple[str, str], tuple[list[float], list[float]]]  # by name and stage: steps, values


def draw(rows: Sequence[Line], title: str = "") -> Figure:
    """Return the figure of a log's lines; a panel whose figures were never logged is left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    starts, colors = _starts(rows), _colors(rows)
    panels = [panel for panel in PANELS if _is_worth_drawing(panel, _curves(rows, starts, panel))]
    lines = -(-len(panels) // _COLUMNS) or 1
    below = 0.5 + 0.27 * -(-len(colors) // _COLUMNS) if colors else 0.1  # inches for the legend
    height = 1.1 + 2.9 * lines + below
    figure = Figure(figsize=(15, height))
    FigureCanvasAgg(figure)
    # by hand: the layout engine draws everything twice
    figure.subplots_adjust(
        left=0.045, right=0.985, top=1 - 1.1 / height, bottom=(below + 0.5) / height, wspace=0.17, hspace=0.5
    )
    for number, panel in enumerate(panels):
        _draw_panel(figure.add_subplot(lines, _COLUMNS, number + 1), panel, rows, starts, colors)
    stages = ", ".join(f"{stage} ({length:,} steps)" for stage, length in _lengths(rows).items())
    head = f"{title}: {stages}" if title else stages
    figure.suptitle(head, fontsize=14, color=_INK, x=0.045, y=1 - 0.2 / height, ha="left")
    if colors:
        _draw_legend(figure, colors)
    return figure


def _draw_legend(figure: Figure, colors: dict[str, Any]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, lw=2.5) for color in colors.values()]
    figure.legend(
        handles, [term.replace("-", " → ", 1) for term in colors], loc="lower center", ncols=_COLUMNS,
        frameon=False, title="terms of the loss",
    )  # fmt: skip


def _draw_panel(axes: Axes, panel: Panel, rows: Sequence[Line], starts: dict[str, int], colors: dict[str, Any]) -> None:
    curves = _curves(rows, starts, panel)
    _draw_curves(axes, curves, colors)
    axes.set_title(panel.title, fontsize=10.5, loc="left", color=_INK, pad=16 if len(starts) > 1 else 6)
    if panel.scale == "log" and any(value > 0 for _, values in curves.values() for value in values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_ylim(bottom=panel.bottom, top=panel.top)
    _mark_stages(axes, rows, starts)
    axes.grid(axis="y", color="#ececec")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8.5, colors=_INK)
    locator: Any = axes.xaxis.get_major_locator()
    locator.set_params(integer=True)
    if any(name.startswith("recall") for name, _ in curves):
        _mark_best(axes, curves)


def _draw_curves(axes: Axes, curves: Curves, colors: dict[str, Any]) -> None:
    first = next(iter(curves), ("", ""))[1]
    for (name, stage), (steps, values) in curves.items():
        kind, _, term = name.partition("/")
        color = colors[term] if term in colors else _OWN.get(name, _INK)
        points: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(steps) < _FEW else {}
        dashes = _DASHES.get(name) or _DASHES.get(f"{kind}/", "-")
        # a label that starts with _ is not in the legend: one entry for all stages
        label = name if name.startswith("recall") and stage == first else "_"
        axes.plot(
            steps, values, color=color, lw=2.2 if name == "loss" else 1.5, ls=dashes,
            label=label, gid=name, **points,
        )  # fmt: skip


def _mark_stages(axes: Axes, rows: Sequence[Line], starts: dict[str, int]) -> None:
    whole = sum(_lengths(rows).values()) or 1
    axes.set_xlim(-0.02 * whole, 1.02 * whole)
    axes.set_xlabel("step", fontsize=8.5, color=_INK)
    if len(starts) < 2:
        return
    lengths = _lengths(rows)
    for number, (stage, start) in enumerate(starts.items()):
        if number:
            axes.axvline(start, color=_PALE, lw=1, ls=":")
        if lengths[stage] / whole < len(stage) * _LETTER:
            continue  # its name would run into the next; the title has it
        axes.annotate(
            stage, (start, 1.0), xycoords=("data", "axes fraction"), xytext=(3, 3), textcoords="offset points",
            fontsize=7.5, color="#888888",
        )  # fmt: skip


def _mark_best(axes: Axes, curves: Curves) -> None:
    """Draw a ring at each stage's kept weights: the best recall@1 after the start, the first of equals."""
    for (name, _), (steps, values) in curves.items():
        if name == "recall@1" and len(values) > 1:
            best = 1 + max(range(len(values) - 1), key=lambda at: (values[at + 1], -at))
            axes.plot(steps[best], values[best], "o", ms=10, mfc="none", mec="#c55a11", mew=1.8, label="_kept")
    axes.plot([], [], "o", ms=8, mfc="none", mec="#c55a11", mew=1.8, label="kept")
    axes.legend(fontsize=8, frameon=False, ncols=4, loc="upper left", handlelength=1.4, columnspacing=1.0)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.18)


def _curves(rows: Sequence[Line], starts: dict[str, int], panel: Panel) -> Curves:
    """Return the curves of a panel; each ends where its stage does."""
    curves: Curves = {}
    for row in rows:
        for name, value in row.items():
            if _belongs(name, panel) and isinstance(value, (int, float)):
                steps, values = curves.setdefault((name, row["stage"]), ([], []))
                steps.append(starts[row["stage"]] + row["step"])
                values.append(value)
    return curves


def _belongs(name: str, panel: Panel) -> bool:
    """Return whether a figure is the panel's: of a nested dimension, NAME/TERM@64, none is drawn."""
    kind, slash, term = name.partition("/")
    return kind + slash in panel.names and "@" not in term


def _is_worth_drawing(panel: Panel, curves: Curves) -> bool:
    values = {value for _, values in curves.values() for value in values}
    return len(values) > (1 if panel.often_fixed else 0)


def _lengths(rows: Sequence[Line]) -> dict[str, int]:
    """Return the steps of each stage, in order."""
    lengths: dict[str, int] = {}
    for row in rows:
        lengths[row["stage"]] = max(lengths.get(row["stage"], 0), row["step"])
    return lengths


def _starts(rows: Sequence[Line]) -> dict[str, int]:
    """Return the place of each stage's step 0 on the axis, on which the stages follow one another."""
    starts, at = {}, 0
    for stage, length in _lengths(rows).items():
        starts[stage] = at
        at += length
    return starts


def _colors(rows: Sequence[Line]) -> dict[str, Any]:
    import matplotlib

    terms = dict.fromkeys(name[5:] for row in rows for name in row if name.startswith("loss/"))
    colormap: Any = matplotlib.colormaps["tab10"]  # one of the listed ones
    palette = colormap.colors
    return {term: palette[number % len(palette)] for number, term in enumerate(terms)}
