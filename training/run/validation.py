"""Validation while a stage trains: the recall on a benchmark, and the weights for which it was best."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from tqdm import tqdm
from transformers import TrainerCallback

from mllm_embed import MLLMEmbedder
from mllm_embed.data.folder import DataFolder, FolderBenchmark
from mllm_embed.errors import DataError
from mllm_embed.files import atomic_folder, read_json, write_json
from mllm_embed.model.pooling import MULTI
from mllm_embed.saving.settings import Settings
from mllm_embed.types import Document, Item, Query
from mllm_embed.vectors.maxsim import maxsim, ranks_by_scores
from mllm_embed.vectors.ranking import TargetRanks, ranks_of_targets

from ..distributed.gathering import agreed, gather_ragged, interleaved, world

if TYPE_CHECKING:
    from .trainer import ContrastiveTrainer

Tasks: TypeAlias = tuple[str | None, str | None]
Lists: TypeAlias = list[list[int]]
KS = (1, 5, 10)
_FILE = "validation.json"


class Validation(TrainerCallback):
    """The recall before the first step, every few steps and after the last, measured without a trace in the training.

    checkpoints/STAGE/best holds the weights with the best recall@1, of equals the earlier ones. The measurement before
    the first step is there to compare with, and never the best.
    """

    def __init__(
        self,
        benchmark: FolderBenchmark,
        every: int,
        embedder: MLLMEmbedder,
        trainer: ContrastiveTrainer,
        bf16: bool,
        gallery: np.ndarray | None = None,
        tasks: Tasks = (None, None),
    ):
        """Set what is measured, and when.

        Args:
            benchmark: the queries and their gallery.
            every: steps between two validations.
            embedder: the model as it trains.
            trainer: logs the figures, and writes and reads the best weights.
            bf16: compute under bfloat16 autocast, as the training does.
            gallery: its vectors [N, D] float32 as a teacher made them, which the queries are to find; by default the
                model's own.
            tasks: of queries and of the gallery.
        """
        self.gallery, self.tasks = gallery, tasks
        self.benchmark, self.every, self.embedder, self.trainer, self.bf16 = benchmark, every, embedder, trainer, bf16
        self.best, self.ends = best_folder(trainer.home), frozenset(accumulate(trainer.parts))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure and log before the first step; a run that goes on did so before."""
        if state.global_step == 0:
            self.trainer.log(self._measured())

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Measure, log and keep the weights if they are the best so far, where it is time or a part ends."""
        if state.global_step % self.every and state.global_step not in self.ends:
            return
        self.trainer.guard.check_weights(model)
        figures = self._measured()
        wanted = control.should_log
        self.trainer.log(figures)
        control.should_log = wanted  # log takes the order to log as carried out
        # the first process decides for all: saving is a collective call
        if agreed(lambda: self._better(figures["recall@1"]), self.embedder.device):
            self._keep({"step": state.global_step, "benchmark": self.benchmark.name, **figures})

    def _better(self, recall: float) -> bool:
        best = read_best(self.best)
        return best is None or recall > best["recall@1"]

    def take_best(self) -> None:
        """Give the model the best weights."""
        self.trainer.load_weights(self.best)
        best = read_best(self.best)
        if best and self.trainer.is_world_process_zero():
            tqdm.write(f"{self.best.parent.name}  keeps the weights of {best_in_words(best)}")

    def _measured(self) -> dict[str, float]:
        started = time.perf_counter()
        figures = validate(self.embedder, self.benchmark, self.bf16, self.gallery, self.tasks)
        return figures | {"validation_seconds": round(time.perf_counter() - started, 2)}

    def _keep(self, facts: dict[str, Any]) -> None:
        first = self.trainer.is_world_process_zero()
        with atomic_folder(self.best) if first else nullcontext(self.best) as folder:
            self.trainer.save_model(str(folder), _internal_call=True)
            if first:
                write_json(folder / _FILE, facts)
        self.trainer.accelerator.wait_for_everyone()


def best_folder(home: Path) -> Path:
    """Return the folder of a stage's best weights, beside its checkpoints in `home`."""
    return home / "best"


def read_best(folder: Path) -> dict[str, Any] | None:
    """Return what the best weights reached, and at which step; None where there are none."""
    if not (folder / _FILE).is_file():
        return None
    again = f"remove {folder.parent} to train the stage again"
    best = read_json(folder / _FILE, again)
    kinds = {"step": int, "recall@1": float, "benchmark": str}
    if not isinstance(best, dict) or not all(type(best.get(key)) is kind for key, kind in kinds.items()):
        raise DataError(f"{folder / _FILE} is damaged; {again}")
    return best


def best_in_words(best: Mapping[str, Any]) -> str:
    """Return a few words on the best weights, of which `read_best` gives the facts."""
    return f"step {best['step']:,}, whose recall@1 on {best['benchmark']} was best: {best['recall@1']:.4f}"


def benchmark_of(folder: DataFolder) -> FolderBenchmark:
    """Return the benchmark of a folder. Raise DataError for a folder that can validate nothing."""
    if folder.benchmark is None or not folder.benchmark.queries:
        raise DataError(f"{folder.root} has no benchmark.json with queries: evaluate.data needs one")
    return folder.benchmark


def check_asked(benchmark: FolderBenchmark, settings: Settings) -> None:
    """Raise DataError for a benchmark of which a query avoids something, of a model of whose queries nothing is
    taken."""
    why = {
        "pooling: multi makes one vector a token": settings.pooling in MULTI,
        "a query encoder that is distilled reads no words alone": settings.target_space is not None,
    }
    reason = next((reason for reason, is_so in why.items() if is_so), None)
    query = next((query for query in benchmark.queries if query.avoid is not None), None)
    if reason and query:
        raise DataError(
            f"the query {query.id} of evaluate.data avoids something, which is taken from a single vector, and "
            f"{reason}; leave its `avoid` out"
        )


def gallery_vectors(
    embedder: MLLMEmbedder, benchmark: FolderBenchmark, bf16: bool = False, task: str | None = None
) -> np.ndarray:
    """Return the vectors [N, D] float32, L2-normalised, of a benchmark's gallery, each with a task or None."""
    with torch.autocast(embedder.device.type, torch.bfloat16, enabled=bf16):
        return _encode(embedder, _gallery(benchmark, task))


def _gallery(benchmark: FolderBenchmark, task: str | None) -> list[Item]:
    return [Document(image=item.image, text=item.text, task=task) for item in benchmark.gallery]


def validate(
    embedder: MLLMEmbedder,
    benchmark: FolderBenchmark,
    bf16: bool = False,
    known: np.ndarray | None = None,
    tasks: Tasks = (None, None),
) -> dict[str, float]:
    """Return recall@1, @5 and @10 of the composed queries, shares of 1: as `mllm-embed-eval run` on the same folder.

    Every process encodes a share and ranks the whole. Random states and the model's mode stay as they were.

    Args:
        embedder: the model as it trains.
        benchmark: the queries and their gallery.
        bf16: compute under bfloat16 autocast, as the training does; the figures then differ from those of the saved
            adapter by rounding.
        known: the gallery's vectors [N, D] float32 where another model made them.
        tasks: of queries and of the gallery.
    """
    task, gallery = tasks[0], _gallery(benchmark, tasks[1])
    asked = benchmark.queries
    queries: list[Item] = [Query(query.image, query.instruction, task=task, avoid=query.avoid) for query in asked]
    training = embedder.model.training
    gpus = [embedder.device] if embedder.device.type == "cuda" else []
    with torch.random.fork_rng(gpus), torch.autocast(embedder.device.type, torch.bfloat16, enabled=bf16):
        ranked = _ranks_by_maxsim if embedder.multi else _ranks
        ranks = ranked(embedder, gallery, queries, known, *_targets_and_excluded(benchmark))
    embedder.model.train(training)
    best = np.array([found.min() for found in ranks.gallery])
    return {f"recall@{k}": float((best <= k).mean()) for k in KS}


def _ranks(
    embedder: MLLMEmbedder, gallery: list[Item], queries: list[Item], known: np.ndarray | None,
    targets: Lists, excluded: Lists,
) -> TargetRanks:  # fmt: skip
    # in one call, so that batches are made by length over gallery and queries together
    vectors = _encode(embedder, queries if known is not None else [*gallery, *queries])
    own = vectors[: len(gallery)] if known is None else known
    return ranks_of_targets(vectors[-len(queries) :], own, targets, excluded)


def _ranks_by_maxsim(
    embedder: MLLMEmbedder, gallery: list[Item], queries: list[Item], _: np.ndarray | None,
    targets: Lists, excluded: Lists,
) -> TargetRanks:  # fmt: skip
    """Rank as `_ranks`, of several vectors an input, all of which every process encodes."""
    show = None if world()[0] == 0 else False
    vectors = embedder.encode_multi([*gallery, *queries], show_progress=show)
    ends, every = len(gallery), np.arange(len(gallery))
    scores = maxsim(vectors.take(range(ends, len(vectors))), vectors.take(range(ends)))
    return ranks_by_scores(scores, targets, lambda query: np.delete(every, excluded[query]))


def _targets_and_excluded(benchmark: FolderBenchmark) -> tuple[list[list[int]], list[list[int]]]:
    """Return for each query the rows of the gallery that are right, and those that are not ranked."""
    row = {item.id: number for number, item in enumerate(benchmark.gallery)}
    targets, excluded = [], []
    for query in benchmark.queries:
        targets.append([row[name] for name in query.targets])
        excluded.append([row[name] for name in query.exclude])
    return targets, excluded


def _encode(embedder: MLLMEmbedder, items: Sequence[Item]) -> np.ndarray:
    """Return the vectors [N, D] float32 of all items, of which each process encodes a share."""
    rank, count = world()
    show = None if rank == 0 else False
    vectors = embedder.encode(items[rank::count], show_progress=show)
    if count == 1:
        return vectors
    return interleaved(gather_ragged(torch.from_numpy(vectors).to(embedder.device))).cpu().numpy()
