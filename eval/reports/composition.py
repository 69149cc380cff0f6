"""The composition audit for people: what a half finds alone, what the composed query finds of that, and the gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..scoring.composition import LABELS, NEITHER, Composition, Gap, Share

FOUND_BY = {label: f"{label}, found alone" for label in LABELS} | {
    "both": "both, each alone",
    NEITHER: "neither: needs both",
}


def audit_cells(metric: str, audit: Composition) -> list[list[str]]:
    """Return the cells of a table of one audit, its head first."""
    cells = [[f"found at {metric} by", "queries", "% of all", f"composed {metric}", "95 % interval"]]
    for label in LABELS:
        own = audit.labelled[label]
        found = ["", ""] if own.composed is None else [f"{own.composed.percent:.2f}", interval(own.composed)]
        cells.append([f"  {FOUND_BY[label]}", f"{own.queries:,}", f"{own.share.percent:.2f}", *found])
    return cells


def gap_sentence(metric: str, audit: Composition) -> str:
    """Return the gap of one audit as a line, and the gap among the queries that need both halves."""
    needing = audit.labelled[NEITHER]
    among = "none needs both"
    if needing.composed is not None:
        figure = f"{needing.composed.percent:+.2f} ({interval(needing.composed)})"
        among = f"{figure} among the {needing.queries:,} that need both"
    return f"  gap at {metric}: {gap_words(audit.gap)}; {among}"


def gap_words(gap: Gap) -> str:
    """Return a gap in points with its interval, and the half that it is over."""
    return f"{gap.points.percent:+.2f} ({interval(gap.points)}) over {gap.better}"


def gap_lines(gaps: Mapping[str, Gap]) -> Sequence[str]:
    """Return a line for the gap of each mean."""
    return [f"  gap of {name}: {gap_words(gap)}" for name, gap in gaps.items()]


def interval(share: Share) -> str:
    """Return an interval as a report shows it."""
    return f"{share.low:.1f} to {share.high:.1f}"
