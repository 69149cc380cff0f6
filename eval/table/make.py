"""Every model on every benchmark, cell by cell: what is finished and unchanged is kept, the rest is made."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from mllm_embed.data.trained_on import Contents
from mllm_embed.errors import DataError, MLLMEmbedError
from mllm_embed.locks import folder_lock

from ..reports.evaluation import Measuring
from ..scoring.leaks import known_training, suite_leaks
from ..scoring.suite import Suite
from .cell import NEW, is_others, read_leaks, read_record, why_again, write_leaks
from .hearing import Hearing
from .inputs import FileDigests, Inputs, benchmark_inputs, code_digest, differences, leak_inputs, model_inputs
from .measuring import BATCH_SIZE, CellWork, Encoder, Event, ModelWork, measure_model, open_named
from .named import NamedBenchmark, NamedModel
from .process import in_own_process
from .progress import Progress
from .table_cell import NOT_YET, LeakCount, TableCell

DIGESTS = ".digests.json"


@dataclass(frozen=True)
class OpenedBenchmark:
    """A benchmark and what of it decides figures; or why it cannot be opened."""

    named: NamedBenchmark
    suite: Suite | None = None
    inputs: Inputs = field(default_factory=dict)
    failure: str = ""


class Table:
    """The cells of some models and benchmarks, in a folder that another process may not write to meanwhile."""

    def __init__(
        self,
        models: Sequence[NamedModel],
        benchmarks: Sequence[NamedBenchmark],
        output: Path,
        load: Callable[[NamedModel], Encoder],
        *,
        measuring: Measuring | None = None,
        again: bool = False,
        isolated: bool = True,
        tell: Callable[[str], None] = print,
    ):
        """Name what is to be measured; `make` does it.

        Args:
            models, benchmarks: no two of one name.
            output: folder of the table; a cell's is OUTPUT/BENCHMARK/MODEL.
            load: loads a model; a function of a module, which a new process imports.
            measuring: how each is measured; the batch size is that of the model, where it has one.
            again: make finished cells again, too.
            isolated: load each model in a process of its own.
            tell: is called with each line of progress.
        """
        self.output, self.benchmarks = output, list(benchmarks)
        self._models, self._load, self._measuring = list(models), load, measuring or Measuring(BATCH_SIZE)
        self._again, self._isolated, self._tell = again, isolated, tell
        self._code, self._contents = code_digest(), Contents()
        self._digests = FileDigests(output / DIGESTS)
        self.opened: dict[str, OpenedBenchmark] = {}
        self.rows = {model.name: list(map(partial(self._cell, model), benchmarks)) for model in models}

    @property
    def cells(self) -> list[TableCell]:
        """All cells, model by model."""
        return [cell for row in self.rows.values() for cell in row]

    @property
    def failed(self) -> list[TableCell]:
        """The cells that could not be made."""
        return [cell for cell in self.cells if cell.failure]

    def make(self, written: Callable[[Table], object]) -> None:
        """Make what is not finished, model by model; `written` is called after each model, to write the table so far.

        Raises:
            ConfigError: another process writes to the folder. DataError: the disk fails.
        """
        with folder_lock(self.output):
            for benchmark in self.benchmarks:
                self.opened[benchmark.name] = self._open(benchmark)
            for model in self._models:
                self._plan(model)
            self._digests.save()
            progress = self._progress()
            for model in self._models:
                self._make_row(model, progress)
                written(self)
            self._digests.save()

    def _cell(self, model: NamedModel, benchmark: NamedBenchmark) -> TableCell:
        return TableCell(model, benchmark, self.output / benchmark.folder / model.folder, failure=NOT_YET)

    def _open(self, benchmark: NamedBenchmark) -> OpenedBenchmark:
        try:
            suite = open_named(benchmark)
            return OpenedBenchmark(benchmark, suite, benchmark_inputs(suite, self._digests))
        except MLLMEmbedError as error:
            self._tell(f"{benchmark.name}: {error}")
            return OpenedBenchmark(benchmark, failure=str(error))

    def _plan(self, model: NamedModel) -> None:
        """Tell for each cell of a model whether it is finished, has to be made and why, or cannot be."""
        own, wrong = {}, ""
        try:
            own = model_inputs(model, self._digests)
        except (MLLMEmbedError, OSError) as error:
            wrong = str(error)
            self._tell(f"{model.name}: {error}")
        for cell in self.rows[model.name]:
            opened = self.opened[cell.benchmark.name]
            cell.failure = opened.failure
            if opened.suite is not None:
                self._plan_cell(cell, opened.suite, {**own, **opened.inputs, "ties": self._measuring.ties}, wrong)

    def _plan_cell(self, cell: TableCell, suite: Suite, inputs: Inputs, wrong: str) -> None:
        """Tell whether a cell is finished; `inputs` decide its figures, or its model is `wrong`, and why."""
        where = f"{cell.model.name} on {cell.benchmark.name}"
        if is_others(cell.folder):
            cell.failure = f"{cell.folder} holds something that no table made; choose another output, or move it away"
            return
        record = cell.record = read_record(cell.folder)
        # of a model that is not there any more nothing can be said; its figures are as true as they were
        why = self._why(cell, suite, {**record.inputs, **inputs} if wrong and record else inputs)
        if why:
            cell.inputs, cell.why, cell.failure = inputs, "" if wrong else why, wrong or NOT_YET
            if why != NEW and not wrong:
                self._tell(f"{where}: to be made again: {why}")
            return
        cell.failure = ""
        if wrong:
            cell.notes.append(f"kept from an earlier run, and not compared with the model as it is now: {wrong}")
        self._tell(f"{where}: kept, finished before")
        self._annotate(cell, suite)

    def _why(self, cell: TableCell, suite: Suite, inputs: Inputs) -> str:
        """Return why a cell has to be made; "" for one that is finished, which is taken in."""
        if cell.record is not None and self._again:
            return "asked for"
        why = why_again(cell.folder, cell.record, inputs)
        try:
            if not why:
                cell.take(suite)
        except DataError as error:
            return f"what it left is damaged ({error})"
        return why

    def _progress(self) -> Progress:
        due = []
        for cell in self.cells:
            suite = self.opened[cell.benchmark.name].suite
            if cell.why and suite is not None:
                items = sum(len(task.gallery) + len(task.queries) for task in suite.tasks)
                due.append((cell.model.name, cell.benchmark.name, items))
        progress = Progress(due, self._tell)
        for cell in self.cells:
            if cell.record is not None and not cell.failure:
                progress.known(cell.model.name, cell.record)
        return progress

    def _make_row(self, model: NamedModel, progress: Progress) -> None:
        """Make the cells of a model that are due, in one process, or in a new one after each that died."""
        due = left = [cell for cell in self.rows[model.name] if cell.why]
        while left:
            hearing = Hearing(left, progress, self._tell)
            ended = self._run(self._work(model, left), hearing.hear)
            left = hearing.left(ended)
        changed = self._changed(model, due)
        for cell in due:
            suite = self.opened[cell.benchmark.name].suite
            if not cell.failure and suite is not None:
                cell.take(suite)
                self._annotate(cell, suite)
                if changed:
                    cell.disown(f"{changed} while it was measured: start the same command again")

    def _changed(self, model: NamedModel, due: Iterable[TableCell]) -> str:
        """Return what of a model has changed since its cells were planned, "" for nothing; a training may go on."""
        first = next(iter(due), None)
        if first is None:
            return ""
        try:
            own = model_inputs(model, self._digests)
        except (MLLMEmbedError, OSError) as error:
            return str(error)
        return "; ".join(differences({key: first.inputs.get(key, "") for key in own}, own))

    def _work(self, model: NamedModel, cells: Iterable[TableCell]) -> ModelWork:
        size = model.batch_size or self._measuring.batch_size
        works = [CellWork(cell.benchmark, cell.folder, cell.inputs) for cell in cells]
        return ModelWork(model, tuple(works), self._load, replace(self._measuring, batch_size=size), self._code)

    def _run(self, work: ModelWork, hear: Callable[[Event], None]) -> str:
        if self._isolated:
            return in_own_process(work, hear)
        measure_model(work, hear)
        gc.collect()  # a model's parts refer to each other, and would stay until the next is loaded
        return ""

    def _annotate(self, cell: TableCell, suite: Suite) -> None:
        """Put to a finished cell what is to be said beside its figures, and count its leaks."""
        if cell.record is not None and cell.record.code != self._code:
            cell.notes.append("made by another state of this version's code: --again makes it anew")
        cell.leak_count = self._leaks(cell, suite)

    def _leaks(self, cell: TableCell, suite: Suite) -> LeakCount:
        opened, data = self.opened[cell.benchmark.name], list(map(Path, cell.model.trained_on))
        try:
            inputs = leak_inputs(cell.model, opened.inputs, self._digests)
            known = known_training(cell.model.places.values(), data, self._contents) if inputs else None
            if known is None:
                return LeakCount()
            leaks = read_leaks(cell.folder, inputs)
            if leaks is None:
                leaks = suite_leaks(known, suite, self._contents)
                write_leaks(cell.folder, leaks, inputs)
        except (MLLMEmbedError, OSError) as error:
            return LeakCount(note=f"leaks could not be counted: {error}")
        unknown = ", ".join(known.unknown)
        return LeakCount(leaks, f"leaks as far as known: what is in {unknown} is not" if unknown else "")
