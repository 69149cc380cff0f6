"""What a form finds, weighs and takes, beside the exact search by the same vectors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from timeit import timeit
from typing import Any

import numpy as np

from mllm_embed.files import read_json, write_json

from .built import Built, Search
from .models import TESTS, Encoded, digest_of
from .rows import EXACT, Row
from .single import Numbers

NEAREST = 10
ALONE = 32  # queries that are timed, one at a time


@dataclass(frozen=True)
class Measured:
    """A form of the gallery of one test.

    Args:
        first: for each query 1 where a right picture comes first, else 0.
        shares: for each query, of the first ten of the exact ranking by the same model's vectors, the share among the
            form's first ten.
        bytes, shared: as of `Built`.
        query: how many times as long as the exact search a query takes, one at a time.
        build: how many times as long as the exact search of all of the test's queries training and coding take.
    """

    first: list[int]
    shares: list[float]
    bytes: float
    shared: int
    query: float
    build: float


class Bench:
    """Rows that are measured beside one clock, and kept in a folder."""

    def __init__(self, models: dict[str, Encoded], clock: Encoded, folder: Path):
        """Measure rows of some models.

        Args:
            models: by name.
            clock: whose single float32 vectors the exact search compares that all times are shares of.
            folder: of the results.
        """
        self._models, self._clock, self._folder = models, clock, folder
        self._exact: dict[tuple[str, str], np.ndarray] = {}

    def place(self, row: Row) -> Path:
        """Return the file of a row's figures, whose name tells the form, the adapters and the scenes; not the code of
        the library: where that changes what a kind of index is, remove the folder."""
        own = digest_of([row.title, repr(row.form), self._models[row.model].digest, self._clock.digest])
        return self._folder / row.model / f"{own}.json"

    def measured(self, row: Row) -> dict[str, Measured]:
        """Return a row's figures by test, from before where they are there."""
        path = self.place(row)
        if not path.is_file():
            found = self._measure(row)
            write_json(path, {"row": row.title, **{test: asdict(own) for test, own in found.items()}})
        kept = read_json(path, "remove it")
        return {test: Measured(**kept[test]) for test in TESTS}

    def _measure(self, row: Row) -> dict[str, Measured]:
        encoded = self._models[row.model]
        with TemporaryDirectory() as home:
            folder = Path(home)
            rows = len(encoded.scenes.tasks[TESTS[0]].gallery)
            pictures = encoded.pictures() if row.form.learns else None  # whose encoding takes long, and counts not
            trained = timeit(lambda: row.form.train(pictures, folder, rows), number=1) if row.form.learns else 0.0
            return {test: self._of_test(row, test, folder, trained) for test in TESTS}

    def _of_test(self, row: Row, test: str, folder: Path, trained: float) -> Measured:
        encoded, task = self._models[row.model], self._models[row.model].scenes.tasks[test]
        side, view = encoded.side(test), task.views[0]
        began = time.perf_counter()
        built = row.form.build(side.gallery, folder)
        spent = trained + time.perf_counter() - began
        exclude = view.exclude or [()] * len(task.queries)
        found = _answers(built.search, side.queries, exclude)
        right = self._right(row.model, test, exclude)
        hits = [int(answers[0] in targets) for answers, targets in zip(found, view.targets, strict=True)]
        shares = [float(np.isin(one, other).mean()) for one, other in zip(right, found, strict=True)]
        query, whole = self._times(row, test, built)
        return Measured(hits, shares, built.bytes, built.shared, query, spent / whole)

    def _right(self, model: str, test: str, exclude: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the exact ranking's first rows [Q, 10] of a model."""
        if (model, test) not in self._exact:
            side, form = self._models[model].side(test), EXACT[self._models[model].model.sort]
            built = form.build(side.gallery, self._folder)
            self._exact[model, test] = _answers(built.search, side.queries, exclude)
        return self._exact[model, test]

    def _times(self, row: Row, test: str, built: Built) -> tuple[float, float]:
        """Return how many times as long as by the clock a query takes, the two in turns; and the seconds in which the
        clock answers all queries, one at a time."""
        sort = self._models[row.model].model.sort
        exact, own = self._clock.side(test), self._models[row.model].side(test)
        clock = Numbers("float32").build(exact.gallery, self._folder)
        numbers = range(min(ALONE, len(exact.queries)))
        took = []
        for at in (0, *numbers):  # the first brings all into memory, and does not count
            query, beside = sort.one(own.queries, at), exact.queries[[at]]
            spent = timeit(lambda q=query: built.search(q, NEAREST), number=1)
            took.append((spent, timeit(lambda q=beside: clock.search(q, NEAREST), number=1)))
        mine, theirs = (statistics.median(times) for times in zip(*took[1:], strict=True))
        return mine / theirs, theirs * len(exact.queries)


def _answers(search: Search, queries: Any, exclude: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the first ten rows [Q, 10] of those that may answer; -1 where there are fewer."""
    found = search(queries, NEAREST + max(map(len, exclude)))
    answers = np.full((len(found), NEAREST), -1, np.int64)
    for own, rows, never in zip(answers, found, exclude, strict=True):
        left = rows[~np.isin(rows, list(never))][:NEAREST]
        own[: len(left)] = left
    return answers
