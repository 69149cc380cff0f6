"""What a run tells of leaks: queries of its validations that its rows ask too, and what each adapter was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from mllm_embed.data.folder import FolderBenchmark
from mllm_embed.data.trained_on import (
    TRAINED_ON,
    Contents,
    Leaks,
    Question,
    TrainedOn,
    count_leaks,
    read_trained_on,
    record_beside,
)
from mllm_embed.errors import DataError
from mllm_embed.types import Document, Item, Query

from ..data import TrainingRow
from ..recipe.config import Recipe
from ..recipe.stage import Stage


@dataclass(frozen=True)
class RunRecord:
    """What the model of a run was trained on before it, and what each stage trains on.

    Args:
        recipe: the run's.
        before: what lies beside the model.
        stages: by name.
        fingerprints: by name, of the stage's data.
    """

    recipe: Recipe
    before: TrainedOn
    stages: dict[str, TrainedOn]
    fingerprints: dict[str, str]

    @classmethod
    def of(
        cls, recipe: Recipe, rows: Mapping[str, Sequence[TrainingRow]], fingerprints: Mapping[str, str]
    ) -> RunRecord:
        """Read what the rows of all stages ask and show; what an earlier start kept is not read again.

        `fingerprints` are those of the data, by path. Raise DataError for a damaged file.
        """
        found, made, contents = {}, {}, Contents()  # stages may show the same pictures
        for name, stage in recipe.stages.items():
            paths = [*(source.path for source in stage.data), *([stage.mined] if stage.mined else [])]
            made[name] = " ".join(fingerprints[str(path)] for path in paths)
            found[name] = _kept(_home(recipe, name), made[name]) or _record(stage, rows[name], contents)
        before = map(record_beside, filter(None, (recipe.model, recipe.adapter)))
        return cls(recipe, TrainedOn.joined([known for known in before if known]), found, made)

    def leaks(self, benchmark: FolderBenchmark) -> Leaks:
        """Return how much of a validation the whole run trains on."""
        return count_leaks(self._up_to(len(self.stages)), *_asked(benchmark))

    def keep(self) -> None:
        """Write what each stage trains on into its home, for the next start. Raise DataError where the disk fails."""
        for name, found in self.stages.items():
            path = _home(self.recipe, name)
            if _kept(path, self.fingerprints[name]) is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                found.save(path, self.fingerprints[name])

    def leave(self, name: str) -> None:
        """Write beside a stage's adapter what taught it. Raise DataError where the disk fails."""
        path = self.recipe.output / name / TRAINED_ON
        if not path.is_file():
            self._up_to(list(self.stages).index(name) + 1).save(path)

    def _up_to(self, count: int) -> TrainedOn:
        return TrainedOn.joined([self.before, *list(self.stages.values())[:count]])


def _home(recipe: Recipe, name: str) -> Path:
    return recipe.checkpoints_of(name) / TRAINED_ON


def _kept(path: Path, fingerprint: str) -> TrainedOn | None:
    """Return what an earlier start wrote of the same data; None where there is nothing."""
    known, about = read_trained_on(path) if path.is_file() else (None, "")
    return known if about == fingerprint else None


def _record(stage: Stage, rows: Sequence[TrainingRow], contents: Contents) -> TrainedOn:
    """Return what the rows of a stage ask and show.

    Of streamed sources nothing but their names: to read all of them once more may take as long as an epoch.
    """
    if stage.streaming:
        return TrainedOn(unknown=tuple(source.path.name for source in stage.data))
    with tqdm(total=len(rows), desc="looking for leaks", unit="row", disable=None, mininterval=1) as bar:
        return TrainedOn.of(_questions(stage, rows, bar), contents)


def _questions(stage: Stage, rows: Sequence[TrainingRow], bar: tqdm) -> Iterator[Question]:
    """Yield what rows ask in the terms of a stage, with all that may answer it in some epoch."""
    for index in range(len(rows)):
        bar.update()
        try:
            row = rows[index]
        except DataError:
            continue  # named when the row's turn comes
        shown = [row.roles[role] for role in stage.roles if role in row.roles]
        if "hard_negative" in stage.roles:
            shown += row.hard_negatives[: stage.hard_negatives]
        for term in stage.terms:
            for query, positive in zip(term.query, term.positive, strict=True):
                asks, answers = row.playing(query), row.playing(positive)
                yield Question(asks, answers, shown)
                shown = []  # with one question of the row
                if term.symmetric:
                    yield Question(answers, asks)


def _asked(benchmark: FolderBenchmark) -> tuple[list[Question], list[Item]]:
    """Return the questions of a validation, and its gallery."""
    gallery: dict[str, Item] = {item.id: Document(image=item.image, text=item.text) for item in benchmark.gallery}
    asked = []
    for query in benchmark.queries:
        answers = [gallery[name] for name in query.targets]
        asked.append(Question([Query(query.image, query.instruction)], answers))
    return asked, list(gallery.values())
