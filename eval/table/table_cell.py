"""A cell of the table while it is made: what is known of it, and what is to be said of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from mllm_embed.data.trained_on import Leaks
from mllm_embed.errors import DataError

from ..reports.saved_result import SavedResult
from ..scoring.suite import Suite
from .cell import CellRecord, Halves, read_halves, read_made, read_record
from .inputs import Inputs
from .named import NamedBenchmark, NamedModel

NOT_YET = "not made yet"


@dataclass(frozen=True)
class LeakCount:
    """The leaks of a cell, as far as they are known.

    Attributes:
        leaks: None where nothing says what the model was trained on.
        note: what else is to be said of them.
    """

    leaks: Leaks | None = None
    note: str = ""


@dataclass(eq=False)
class TableCell:
    """One model on one benchmark: a result, files for a server, or why there is neither.

    Attributes:
        model, benchmark: as they were named.
        folder: of what was made.
        inputs: what decides its figures now; empty where that is not known.
        why: why it is to be made, "" for one that is finished.
        record: of what was made; None where nothing was.
        result: its figures; None for a submission.
        halves: what the picture alone and the words alone find.
        leak_count: how much of the benchmark the model was trained on.
        failure: one sentence, "" where nothing failed.
        notes: what must be said beside its figures.
    """

    model: NamedModel
    benchmark: NamedBenchmark
    folder: Path
    inputs: Inputs = field(default_factory=dict)
    why: str = ""
    record: CellRecord | None = None
    result: SavedResult | None = None
    halves: Halves = field(default_factory=Halves)
    leak_count: LeakCount = field(default_factory=LeakCount)
    failure: str = ""
    notes: list[str] = field(default_factory=list)

    def disown(self, why: str) -> None:
        """Let what lies in its folder count as of no known inputs, so that it is made again. Raise as `take`."""
        if self.record is not None:
            replace(self.record, inputs={}).write(self.folder)
        self.record, self.result, self.failure = None, None, why

    def take(self, suite: Suite) -> None:
        """Take in what lies in its folder. Raise DataError where that is damaged."""
        self.record = read_record(self.folder)
        if self.record is None:
            raise DataError(f"{self.folder} is not whole")
        found = read_made(self.folder, self.record, suite)
        if found is not None:
            self.result = replace(found, per_query=None)  # of which there may be gigabytes
            self.halves = read_halves(self.folder, found.headline)
