"""The rows as a table in Markdown, with what a reader must know of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from toy.intervals import interval

from .measuring import Measured
from .models import MODELS, TESTS, Model, Scenes
from .rows import ROWS

Found = Mapping[str, Mapping[str, Measured]]
"""By the title of a row and test."""
_HEAD = ("of", "form", "bytes a picture", "shared, KB", *(f"R@1 {test}" for test in TESTS),
         *(f"recall@10 {test}" for test in TESTS), "a query", "build")  # fmt: skip


def table(found: Found, scenes: Scenes) -> str:
    """Return the rows, and below them what they are of."""
    lines = [_line(_HEAD), _line(["---"] * len(_HEAD))]
    lines += [_line(_cells(title, found[title], scenes)) for title in ROWS if title in found]
    used = dict.fromkeys(ROWS[title].model for title in ROWS if title in found)
    notes = [f"- {name}: {MODELS[name].about}, by {_adapters(MODELS[name])}" for name in used]
    return "\n".join([*lines, "", *notes, "", _sizes(scenes)]) + "\n"


def _adapters(model: Model) -> str:
    return f"{model.adapter}, pictures by {model.pictures}" if model.pictures else f"{model.adapter}"


def _cells(title: str, own: Mapping[str, Measured], scenes: Scenes) -> list[str]:
    row, one = ROWS[title], own[TESTS[0]]
    firsts = [str(interval([np.array(own[test].first)], scenes.tasks[test].references)) for test in TESTS]
    shares = [f"{np.mean(own[test].shares):.3f}" for test in TESTS]
    times = [f"{np.mean([getattr(own[test], what) for test in TESTS]):.2g}" for what in ("query", "build")]
    size = np.mean([own[test].bytes for test in TESTS])
    shared = f"{one.shared / 1000:.0f}" if one.shared else ""
    return [row.model, f"{row.series}, {row.name}", f"{size:,.0f}", shared, *firsts, *shares, *times]


def _sizes(scenes: Scenes) -> str:
    sizes = ", ".join(
        f"{test} {len(task.queries):,} queries of {len(task.gallery):,} pictures" for test, task in scenes.tasks.items()
    )
    return (
        f"{sizes}; what is trained is trained on the {len(scenes.pictures()):,} pictures of the training data, "
        "but the index of an FDE on the pictures of the test, whose lists are not in its bytes."
    )


def _line(cells) -> str:
    return f"| {' | '.join(cells)} |"
