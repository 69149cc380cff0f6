"""What the process of a model tells of its cells, put where it belongs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from .cell import CellRecord, read_record
from .measuring import Event
from .progress import Progress
from .table_cell import TableCell


class Hearing:
    """Hears of some cells."""

    def __init__(self, cells: Sequence[TableCell], progress: Progress, tell: Callable[[str], None]):
        """Hear of these cells, of which nothing is known yet."""
        self._cells, self._progress, self._tell = list(cells), progress, tell
        self._begun: TableCell | None = None
        self._heard: set[int] = set()

    def hear(self, event: Event) -> None:
        """Take in one event."""
        if event.cell is None:
            for cell in self._cells:
                self._failed(cell, event.text)
            return
        cell = self._cells[event.cell]
        act: Mapping[str, Callable[[], None]] = {
            "begun": partial(self._begin, cell),
            "asked": partial(self._asked, event.text),
            "done": partial(self._done, cell),
            "failed": partial(self._failed, cell, event.text),
        }
        act[event.kind]()

    def left(self, ended: str) -> list[TableCell]:
        """Return the cells that a process that `ended` so has left to another one; the one that ended it is failed."""
        rest = [cell for cell in self._cells if id(cell) not in self._heard]
        if not ended:
            return []
        ending = [self._begun] if self._begun in rest else rest  # all of them, where it was the model itself
        for cell in filter(None, ending):
            self._failed(cell, ended)
        return [cell for cell in rest if cell not in ending]

    def _begin(self, cell: TableCell) -> None:
        self._begun = cell
        self._progress.begun(cell.model.name, cell.benchmark.name)

    def _asked(self, text: str) -> None:
        for line in text.splitlines():
            self._tell(f"    {line}")

    def _done(self, cell: TableCell) -> None:
        self._heard.add(id(cell))
        cell.why = cell.failure = ""
        record = read_record(cell.folder)
        if record is not None:
            self._progress.known(cell.model.name, record)
        self._progress.ended(cell.model.name, cell.benchmark.name, _spent(record))

    def _failed(self, cell: TableCell, failure: str) -> None:
        self._heard.add(id(cell))
        old = "" if cell.record is None else f" ({cell.folder} still holds what an earlier run made)"
        cell.why, cell.failure = "", failure + old
        self._progress.ended(cell.model.name, cell.benchmark.name, f"failed: {failure}")


def _spent(record: CellRecord | None) -> str:
    if record is None:
        return "done"
    memory = record.cost.device_memory or record.cost.memory
    return f"done in {record.cost.seconds:.0f} s, {memory / 2**30:.1f} GiB at most"
