"""Hard negatives that the model finds while it trains: at a stage's start, and every few steps (ANCE).

ANCE (arXiv 2007.00808) lets a second set of machines encode everything with the last checkpoint while the training goes
on, with negatives that are some steps old by the time they come. Here the training waits, so that negatives are always
those of the weights at a step that is known, and a run that was stopped ends as one that was not: what a step found is
a mined file in the stage's folder. Encoded are the queries of the rows that come before the next time alone, and what
can be found; what is nearer than a share of the positive is left out, which ANCE takes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm
from transformers import TrainerCallback

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import DataError
from mllm_embed.files import atomic_file

from ..batch.stage_data import RowOrder, StageRows, rows_of_steps
from ..distributed.gathering import agreed, world
from ..mining.mine import QuestionVectors, mine, write_mined
from ..mining.mined_rows import MinedRows
from ..mining.negatives import Rules
from ..mining.pictures import PictureContents
from ..mining.questions import Questions, Scan
from ..mining.rows import Roles, RowsToMine
from ..mining.vector_cache import PICTURES, VectorCache, lost_in
from ..recipe.stage import Stage
from ..recipe.stage_keys.mine import LATE

_NAME = "mined-"
_KEPT = 3  # files of mined negatives: the last checkpoints that are kept go on with them


@dataclass
class MiningAgain:
    """The mining of one stage that has a section `mine`.

    Args:
        name: of the stage, for lines on the console.
        stage: the stage.
        rows: its rows; `again` of them is set.
        order: theirs, of all processes.
        embedder: the model as it trains.
        bf16: encode under bfloat16 autocast, as the training does.
        home: the stage's folder, where what each step found stays until the stage is trained anew.
        seed: of the run.
    """

    name: str
    stage: Stage
    rows: StageRows
    order: RowOrder
    embedder: MLLMEmbedder
    bf16: bool
    home: Path
    seed: int

    def __post_init__(self) -> None:
        self.last = 0  # the step whose negatives are taught
        self.stretches = 0  # how often negatives were taken
        self.figures: dict[str, float] = {}  # of what was mined last, for the log; taken out there

    def due(self, step: int) -> bool:
        """Return whether the negatives at a step are so old that others are to be found."""
        return self._keys.every <= step - self.last

    def found_at(self, step: int) -> int | None:
        """Return the step whose negatives are to be taught from `step` on, None where they are not found yet."""
        before = [at for at in self._steps() if at <= step]
        return max(before) if before and step - max(before) < self._keys.every else None

    def take(self, step: int) -> None:
        """Let the rows have the hard negatives for the steps from `step` on: those found before, or new ones."""
        found = agreed(lambda: -1 if self.found_at(step) is None else int(self.found_at(step) or 0), self._device)
        self.last = step if found < 0 else found
        path = self._file(self.last)
        if found < 0:
            self._mine(self.last, path)
        self.stretches += 1
        self.rows.again = MinedRows(path, self.rows.mixed, self.stage.rows)

    def _file(self, step: int) -> Path:
        return self.home / f"{_NAME}{step}.jsonl"

    def _steps(self) -> list[int]:
        """Return the steps at which something was mined, as far as its file is kept."""
        found = (path.stem.removeprefix(_NAME) for path in self.home.glob(f"{_NAME}*.jsonl"))
        return sorted(int(step) for step in found if step.isdecimal())

    @property
    def _keys(self) -> Any:
        return self.stage.mine

    @property
    def _device(self) -> torch.device:
        return self.embedder.device

    @cached_property
    def _data(self) -> RowsToMine:
        query, positive, *also = self.stage.mined_roles
        return RowsToMine(self.rows.mixed, self.stage.rows, Roles(query, positive, tuple(also)), self.rows.sides)

    @cached_property
    def _scan(self) -> Scan:
        """What the rows ask and answer, which no step changes: read once."""
        contents = PictureContents(self.home / PICTURES, writes=world()[0] == 0)
        scan = Scan(self._data, self.stage.mined_roles, contents, hidden=world()[0] > 0)
        contents.save()
        return scan

    def _mine(self, step: int, path: Path) -> None:
        """Find the negatives of the rows that come next; each process those of a share of them."""
        started, keys = time.perf_counter(), self._keys
        rank, count = world()
        coming = rows_of_steps(self.order, self.stage.batch_size, step, step + keys.every + LATE)
        questions = self._scan.questions(coming)
        if keys.candidates is not None:
            questions = questions.with_candidates(keys.candidates, self.seed + step)
        if keys.skip + keys.count >= len(questions.gallery):
            raise DataError(
                f"stage '{self.name}': mine: skip {keys.skip} and count {keys.count} ask for more than the "
                f"{len(questions.gallery):,} distinct candidates, of which one is the positive; lower them"
            )
        own = questions if count == 1 else questions.only(np.arange(rank, len(questions.queries), count))
        if rank == 0:
            tqdm.write(
                f"{self.name}  mines at step {step:,}: {len(questions.queries):,} queries of the rows that come, among "
                f"{len(questions.gallery):,} candidates"
            )
        work = self.home / f"mining-{step}"
        vectors = self._vectors(own, work, rank, count)
        rules = Rules(keys.count, keys.skip, keys.ceiling, keys.at_most, keys.depth, keys.siblings)
        found = mine(own, vectors, rules, progress=_shown(rank))
        write_mined(work / f"{rank}-of-{count}.jsonl", {"step": step}, self._data, own, found)
        _wait()
        if rank == 0:
            _join([work / f"{number}-of-{count}.jsonl" for number in range(count)], path)
            shutil.rmtree(work)
            for old in self._steps()[:-_KEPT]:
                self._file(old).unlink()
        _wait()
        there = found.negatives.places >= 0
        totals = self._summed(there.sum(), found.negatives.similarity[there].sum(), found.negatives.positive.sum())
        self.figures = {
            "mining_seconds": round(time.perf_counter() - started, 2),
            "mined_queries": len(questions.queries),
            "mined_candidates": len(questions.gallery),
            "mined_negatives": round(totals[0] / max(1, len(questions.queries)), 4),
            "mined_similarity": round(totals[1] / max(1.0, totals[0]), 4),
            "mined_positive": round(totals[2] / max(1, len(questions.queries)), 4),
        }

    def _summed(self, *values: float) -> list[float]:
        """Return the sums of numbers over all processes."""
        total = torch.tensor(values, dtype=torch.float64, device=self._device)
        if world()[1] > 1:
            dist.all_reduce(total)
        return [float(value) for value in total]

    def _vectors(self, own: Questions, work: Path, rank: int, count: int) -> QuestionVectors:
        """Return the vectors of a process's questions, and of all candidates, of which it encodes a share."""
        bounds = np.linspace(0, len(own.gallery), count + 1).astype(int)
        caches = [work / f"{number}-of-{count}" for number in range(count)]
        cache = VectorCache(caches[rank], {"inputs": own.digest}, self.stage.max_unreadable, "choose another output")
        with self._as_is():
            queries = cache.encode("queries", own.queries, self.embedder, progress=_shown(rank))
            with self._found_by_base():
                share = own.gallery.at(slice(int(bounds[rank]), int(bounds[rank + 1])))
                cache.encode("gallery", share, self.embedder, progress=_shown(rank))
        _wait()
        gallery = [np.load(folder / "gallery.npy", mmap_mode="r") for folder in caches]
        lost: dict[int, str] = {}
        for number, folder in enumerate(caches):
            known = cache.unreadable if number == rank else lost_in(folder)
            lost |= {int(bounds[number]) + place: why for place, why in known.get("gallery", {}).items()}
        vectors = gallery[0] if count == 1 else np.concatenate(gallery)
        return QuestionVectors(queries, np.asarray(vectors), cache.unreadable["queries"], lost)

    @contextmanager
    def _as_is(self) -> Iterator[None]:
        """Encode within as the model is, and leave no trace: its mode and the random states stay."""
        model = self.embedder.model
        training, device = model.training, self._device
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.autocast(device.type, torch.bfloat16, enabled=self.bf16),
        ):
            try:
                yield
            finally:
                model.train(training)

    def _found_by_base(self) -> Any:
        """Return what encodes candidates as the term has them encoded: without the adapter where it is frozen."""
        adapted: Any = self.embedder.model.backbone  # peft's wrapper, which has no types
        return adapted.disable_adapter() if self.stage.mined_for.frozen else nullcontext()


class MiningStop(TrainerCallback):
    """The end of a stretch of training, after which the model mines anew: with a checkpoint, from which it goes on."""

    def __init__(self, again: MiningAgain, trainer: Any):
        """Ask `again` when; `trainer` says whether a checkpoint may be written."""
        self.again, self.trainer = again, trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Log what was mined for the stretch; a run that goes on within one has logged it before."""
        if self.again.figures:
            wanted = control.should_log
            self.trainer.log(self.again.figures)
            control.should_log = wanted  # log takes the order to log as carried out
            self.again.figures = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """End the stretch where it is time, unless the vectors look collapsed: no checkpoint is written then."""
        if state.global_step >= state.max_steps or not self.again.due(state.global_step):
            return
        if self.trainer.guard.above:
            return
        self.trainer.guard.check_weights(model)
        control.should_save = control.should_log = control.should_training_stop = True


def _join(parts: list[Path], path: Path) -> None:
    """Write the lines of all processes as one file, with the first one's header."""
    with atomic_file(path) as temporary, temporary.open("wb") as whole:
        for number, part in enumerate(parts):
            with part.open("rb") as file:
                header = file.readline()
                whole.write(b"" if number else header)
                shutil.copyfileobj(file, whole)


def _wait() -> None:
    if world()[1] > 1:
        dist.barrier()


def _shown(rank: int) -> bool | None:
    return None if rank == 0 else False  # None: no bar where there is no terminal
