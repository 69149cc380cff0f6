"""How much of a benchmark a model was trained on, or another set asks too: by content, as `trained_on` counts it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from mllm_embed.data.folder import DataFolder, Pair, TextRow, Triplet
from mllm_embed.data.trained_on import (
    Contents,
    Leaks,
    Question,
    TrainedOn,
    count_leaks,
    read_trained_on,
    record_beside,
)
from mllm_embed.types import Document, Item, Query

from .suite import Suite, Task


def suite_questions(suite: Suite) -> list[Question]:
    """Return what a suite asks, with what is right where that is known here."""
    return list(chain.from_iterable(map(_task_questions, suite.tasks)))


def _task_questions(task: Task) -> Iterator[Question]:
    targets: Sequence[Sequence[int]] = task.views[0].targets if task.views else [()] * len(task.queries)
    for items, places in zip(task.queries, targets, strict=True):
        yield Question(items, [task.gallery[place] for place in places])


def suite_leaks(trained: TrainedOn, suite: Suite, contents: Contents) -> Leaks:
    """Return how much of a suite is among what was trained on."""
    gallery: list[Item] = list(chain.from_iterable(task.gallery for task in suite.tasks))
    return count_leaks(trained, suite_questions(suite), gallery, contents)


def asked_by(suite: Suite, contents: Contents) -> TrainedOn:
    """Return the numbers of what another suite asks, on which settings are chosen, say."""
    return TrainedOn.of(suite_questions(suite), contents)


def known_training(models: Iterable[str | Path | None], data: Iterable[Path], contents: Contents) -> TrainedOn | None:
    """Return what models were trained on, as far as it lies beside them or `data` holds it; None where nothing says it.

    `models` are folders of models and adapters, hub ids, or None; `data` what `trained_on` takes. Raise DataError for a
    damaged file, and for data that is none.
    """
    known = [record for record in map(record_beside, models) if record]
    known += [trained_on(path, contents) for path in data]
    return TrainedOn.joined(known) if known else None


def trained_on(path: Path, contents: Contents) -> TrainedOn:
    """Return what training on a data folder, or on what a file of numbers says, taught.

    Raise DataError for a path that is neither.
    """
    if path.is_file():
        return read_trained_on(path)[0]
    folder = DataFolder.open(path)
    rows = chain(map(_pair, folder.pairs), map(_triplet, folder.triplets), map(_texts, folder.texts))
    return TrainedOn.of(rows, contents)


def _pair(row: Pair) -> Question:
    # both ways, since either may ask in a term
    both: list[Item] = [Document(image=row.image), Document(text=row.caption)]
    return Question(both, both[::-1])


def _triplet(row: Triplet) -> Question:
    answers = [Document(image=row.target_image)] if row.target_image else []
    answers += [Document(text=row.target_text)] if row.target_text else []
    return Question([Query(row.image, row.instruction)], answers)


def _texts(row: TextRow) -> Question:
    return Question([Query(text=row.source_text, instruction=row.instruction)], [Document(text=row.target_text)])
