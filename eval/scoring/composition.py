"""The composition audit: which queries a half of the query finds by itself, and what composing the two adds.

A query of which the picture alone, or the instruction alone, finds a target says nothing about composing. So every
composed query gets a label: found by "image only", by "text only", by each of the two ("both"), or by "neither", which
are the queries that need both halves. The composition gap is what the composed query finds beyond the better half.

That queries are labelled so, and that a gap is taken, is CIRCUS' idea (Attimonelli et al., arXiv 2605.14787). Ours are:
the K of each benchmark's own headline beside their 10; labels of one model by themselves, where theirs are of eleven
models together (`mllm-embed-eval audit` puts several results together as they do); a gap in points, not normalised; and
its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .estimate import INTERVAL, resamples
from .suite import Mean, Task, column

IMAGE_ONLY, TEXT_ONLY, SUM = "image only", "text only", "sum"
BOTH, NEITHER = "both", "neither"
HALVES = (IMAGE_ONLY, TEXT_ONLY)
LABELS = (IMAGE_ONLY, TEXT_ONLY, BOTH, NEITHER)
LABELS_RULE = (
    "a query is found by a half where its metric is above 0 for that half alone: image only, text only, both (each by "
    "itself) or neither; the gap is the composed query minus the half with the higher figure on all queries"
)
Values = Mapping[str, Mapping[str, np.ndarray]]
"""Row of a task's table -> metric -> [Q]."""


@dataclass(frozen=True)
class Share:
    """A percentage of queries, or of points, with its 95 % interval."""

    percent: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"percent": self.percent, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Labelled:
    """The queries with one label.

    Attributes:
        queries: how many.
        share: of all queries.
        hits: how many of them the composed query finds.
        composed: the composed query's metric among them; None where there are none.
    """

    queries: int
    share: Share
    hits: int
    composed: Share | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        composed = {"composed": self.composed.to_dict()} if self.composed else {}
        return {"queries": self.queries, **self.share.to_dict(), "hits": self.hits, **composed}


@dataclass(frozen=True)
class Gap:
    """What the composed query has beyond its better half, in points.

    Attributes:
        better: the row of the half with the higher figure on all queries; the picture where both are equal.
        points: with its 95 % interval.
    """

    better: str
    points: Share

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"better half": self.better, "gap": self.points.to_dict()}


@dataclass(frozen=True)
class Composition:
    """The audit of one metric of a task.

    Attributes:
        gap: overall.
        labelled: by label. Among the queries that need both ("neither") the halves find nothing, so that the gap there
            is the composed query's own metric.
        labels: [Q], one of LABELS for each query.
    """

    gap: Gap
    labelled: Mapping[str, Labelled]
    labels: np.ndarray = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the labels."""
        found = {label: own.to_dict() for label, own in self.labelled.items()}
        return {**self.gap.to_dict(), "found by": found}


def compose(task: Task, rows: Values) -> dict[str, Composition]:
    """Return the audit of each metric that a task names for it; nothing where a half was not asked.

    Args:
        task: composed or not.
        rows: what every query has in every row of the table.
    """
    if not task.composed or not set(HALVES) <= set(rows):
        return {}
    return {metric: _audit(metric, task, rows) for metric in task.audited}


def labels_of(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Return labels [Q], of values [Q] of the picture alone and of the instruction alone; above 0 is found."""
    return np.array(LABELS)[np.select([(image > 0) & (text > 0), image > 0, text > 0], [2, 0, 1], 3)]


def better_half(image: float, text: float) -> str:
    """Return the row of the half with the higher figure; the picture's where both are equal."""
    return TEXT_ONLY if text > image else IMAGE_ONLY


def _audit(metric: str, task: Task, rows: Values) -> Composition:
    composed, image, text = (rows[row][metric] for row in (task.query_kind, *HALVES))
    labels = labels_of(image, text)
    better = better_half(float(image.mean()), float(text.mean()))
    members = np.stack([labels == label for label in LABELS], axis=1).astype(np.float64)
    # one draw for all columns: a share and what is found in it move together
    columns = [(composed - rows[better][metric])[:, None], members, members * composed[:, None]]
    drawn = resamples(np.concatenate(columns, axis=1), task.name, task.references)
    labelled = {}
    for at, label in enumerate(LABELS):
        own = composed[labels == label]
        share = _share(float(members[:, at].mean()), drawn[:, 1 + at])
        within = _within(own, drawn[:, 1 + len(LABELS) + at], drawn[:, 1 + at]) if len(own) else None
        labelled[label] = Labelled(len(own), share, int((own > 0).sum()), within)
    return Composition(Gap(better, _share(float(columns[0].mean()), drawn[:, 0])), labelled, labels)


def _within(values: np.ndarray, found: np.ndarray, share: np.ndarray) -> Share:
    """Return the mean of values of some queries, whose number varies in the samples [B] as what they find does."""
    # a sample without any of these queries tells nothing of them
    some = share > 0
    return _share(float(values.mean()), found[some] / share[some])


def _share(value: float, samples: np.ndarray) -> Share:
    low, high = (100 * np.percentile(samples, INTERVAL)).tolist()
    return Share(100 * value, low, high)


def audited_means(wanted: Sequence[Mean], tasks: Sequence[Task]) -> list[str]:
    """Return the means that are of audited metrics alone, such as FashionIQ's mean R@10."""
    audited = {column(task.name, metric) for task in tasks for metric in task.audited if task.composed}
    return [mean.name for mean in wanted if audited.issuperset(mean.parts)]


def mean_gap(figures: Mapping[str, tuple[float, np.ndarray]], kind: str) -> Gap:
    """Return the gap of a mean over tasks.

    Args:
        figures: row of the table -> the mean in percent and its bootstrap samples [B], drawn alike in all rows.
        kind: the row of the queries as asked.
    """
    better = better_half(*(figures[row][0] for row in HALVES))
    samples = figures[kind][1] - figures[better][1]
    return Gap(better, Share(figures[kind][0] - figures[better][0], *(100 * np.percentile(samples, INTERVAL)).tolist()))
