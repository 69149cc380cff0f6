"""A model, loaded once and measured on one benchmark after another; what goes wrong with one ends that one alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from mllm_embed.encode.dual_encoder import DualEncoder
from mllm_embed.encode.embedder import MLLMEmbedder
from mllm_embed.encode.memory import PeakMemory
from mllm_embed.errors import DataError, MLLMEmbedError, ModelError, first_line, reason
from mllm_embed.files import atomic_folder

from ..benchmarks import open_suite
from ..reports.evaluation import Measuring, evaluate_into
from ..reports.report import settings_of
from ..reports.submission import need_server, write_submission
from ..scoring.asking import AskedSuite, ask
from ..scoring.evaluate import check_evaluable, embed
from ..scoring.suite import Suite
from .cell import CellRecord, Cost
from .inputs import Inputs
from .named import NamedBenchmark, NamedModel

Encoder: TypeAlias = MLLMEmbedder | DualEncoder
BATCH_SIZE = 32
_FULL = "allocate memory"  # in what torch says where a CPU's memory is full
_SMALLER = "take a smaller batch (--batch-size), a smaller number format (--dtype, --quantization), or another machine"


@dataclass(frozen=True)
class CellWork:
    """A cell that is to be made: where it goes, and what decides it."""

    benchmark: NamedBenchmark
    folder: Path
    inputs: Inputs


@dataclass(frozen=True)
class ModelWork:
    """What one process does.

    Attributes:
        model: to be loaded.
        cells: to be made with it, in this order.
        load: loads it.
        measuring: how a benchmark is measured.
        code: digest of the code.
    """

    model: NamedModel
    cells: tuple[CellWork, ...]
    load: Callable[[NamedModel], Encoder]
    measuring: Measuring
    code: str


@dataclass(frozen=True)
class Event:
    """What is told of a cell, by its place among those to be made; None for the model itself, which may fail, too.

    `text` is how it is asked, or why it failed.
    """

    kind: Literal["begun", "asked", "done", "failed"]
    cell: int | None = None
    text: str = ""


def open_named(benchmark: NamedBenchmark) -> Suite:
    """Open a benchmark. Raises as `benchmarks.open_suite`."""
    return open_suite(
        benchmark.benchmark,
        benchmark.data,
        images=benchmark.images,
        split=benchmark.split,
        options=benchmark.options,
    )


def measure_model(work: ModelWork, tell: Callable[[Event], None]) -> None:
    """Load a model and make its cells, each whole or not at all; a mistake in one is told, and the next is made."""
    started = time.perf_counter()
    try:
        with _one_sentence():
            embedder = work.load(work.model)
    except MLLMEmbedError as error:
        tell(Event("failed", text=str(error)))
        return
    loading = time.perf_counter() - started
    for at, cell in enumerate(work.cells):
        tell(Event("begun", at))
        try:
            with _one_sentence():
                # before hours of encoding, so that a wrong word shows in time
                _make(work, cell, embedder, loading, partial(_tell_asked, tell, at))
        except MLLMEmbedError as error:
            tell(Event("failed", at, str(error)))
        else:
            tell(Event("done", at))


def _tell_asked(tell: Callable[[Event], None], cell: int, text: str) -> None:
    tell(Event("asked", cell, text))


def _make(
    work: ModelWork, cell: CellWork, embedder: Encoder, loading: float, tell_asked: Callable[[str], None]
) -> None:
    """Make a cell, and put it in the place of an older one once it is whole."""
    model, suite = work.model, open_named(cell.benchmark)
    if not suite.fingerprint().startswith(cell.inputs["fingerprint"]):
        raise DataError(f"the files of {suite.title} have changed since this began: start the same command again")
    asked = ask(embedder, suite, task=model.task, document_task=model.document_task)
    tell_asked(str(asked))
    settings = settings_of(embedder, model.model, model.adapter, model.query_model, model.query_adapter)
    started, peak, on_device = time.perf_counter(), PeakMemory(), _DeviceMemory(embedder)
    with atomic_folder(cell.folder) as folder:
        with peak:
            files = _write(folder, embedder, suite, asked, settings, work)
        seconds = time.perf_counter() - started
        cost = Cost(round(seconds, 3), round(loading, 3), peak.bytes, on_device.bytes)
        items = sum(len(task.gallery) + len(task.queries) for task in suite.tasks)
        CellRecord(cell.inputs, work.code, items, cost, settings, asked.protocol(), files).write(folder)


def _write(
    folder: Path, embedder: Encoder, suite: Suite, asked: AskedSuite, settings: dict[str, Any], work: ModelWork
) -> tuple[str, ...]:
    """Write a result; where a server holds the labels its submission, whose files' names are returned."""
    if suite.labelled:
        check_evaluable(suite)
        evaluate_into(folder, embedder, suite, asked, settings, work.measuring)
        return ()
    need_server(suite)
    vectors, _ = embed(embedder, suite, batch_size=work.measuring.batch_size, asked=asked)
    return tuple(path.name for path in write_submission(suite, vectors, folder))


class _DeviceMemory:
    """The most bytes on a model's GPU from now on; None on a CPU."""

    def __init__(self, embedder: Encoder):
        # of a dual encoder the large model, which has the gallery to encode
        large = embedder.gallery if isinstance(embedder, DualEncoder) else embedder
        self._device = large.device
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    @property
    def bytes(self) -> int | None:
        if self._device.type != "cuda":
            return None
        return int(torch.cuda.max_memory_allocated(self._device))


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Raise what a machine or an installation lacks as an error of the library: memory, a package, a file."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        _free()
        raise ModelError(f"out of memory ({first_line(error)}): {_SMALLER}") from error
    except RuntimeError as error:
        if _FULL not in str(error):
            raise
        raise ModelError(f"out of memory ({first_line(error)}): {_SMALLER}") from error
    except ImportError as error:
        raise ModelError(f"a package is missing ({first_line(error)}): install it, and start again") from error
    except OSError as error:
        raise DataError(f"{error.filename or 'a file'} cannot be read: {reason(error)}") from error


def _free() -> None:
    """Give back what a failed batch left on a GPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
