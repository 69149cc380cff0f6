"""Result folders of made-up benchmarks with halves, scored by the real code from vectors that no model made."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.reports.report import write_result
from eval.scoring.result import Result
from eval.scoring.score import Vectors, score
from eval.scoring.suite import Suite

NOISE = {"composed": 1.2, "image only": 2.0, "text only": 2.6}
Scored = Callable[..., Result]
Tables = Callable[[str], list[list[dict[str, str]]]]


@pytest.fixture(scope="session")
def scored() -> Scored:
    """Score queries that are their target's vector and some noise, more in a half, and leave a result folder."""

    def run(folder: Path, suite: Suite, seed: int = 0, shift: float = 0.0, rows: tuple[str, ...] = ()) -> Result:
        rng, vectors = np.random.default_rng(seed), {}
        for task in suite.tasks:
            gallery = np.random.default_rng(99).standard_normal((len(task.gallery), 16)).astype(np.float32)
            wanted = gallery[[row[0] for row in task.views[0].targets]]
            made = {}
            for row in rows or NOISE:
                noise = (NOISE[row] + shift) * rng.standard_normal(wanted.shape)
                made[row] = (wanted + noise).astype(np.float32)
            vectors[task.name] = Vectors(gallery, made)
        result = score(suite, vectors)
        write_result(result, suite, folder, {"model": None, "adapter": None})
        return result

    return run


@pytest.fixture(scope="session")
def tables() -> Tables:
    """Read the tables of a Markdown document: a dict for each line, without the bold."""

    def read(text: str) -> list[list[dict[str, str]]]:
        found = []
        for block in re.findall(r"(?:^\|.*\|$\n?)+", text, flags=re.MULTILINE):
            rows = [line[1:-1].split(" | ") for line in block.strip().split("\n")]
            head, _, *lines = [[cell.strip(" *") for cell in row] for row in rows]
            found.append([dict(zip(head, line, strict=True)) for line in lines])
        return found

    return read
