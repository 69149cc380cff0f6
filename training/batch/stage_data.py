"""The rows of a stage, as its loss, its order and its reports need them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from mllm_embed.encode.avoiding import words_to_avoid
from mllm_embed.errors import DataError
from mllm_embed.inputs.item_processor import ItemProcessor
from mllm_embed.inputs.prompts import INSTRUCTION, TEXT, PromptSet
from mllm_embed.model.pooling import MULTI
from mllm_embed.saving.settings import Settings

from ..data import TrainingRow
from ..data.formats import FORMATS
from ..data.numbers import Turn
from ..data.open import open_rows
from ..data.order import shares
from ..data.rows import MixedRows
from ..data.stream import StreamSampler
from ..mining.mined_rows import MinedRows
from ..recipe.row_stage import RowStage
from ..recipe.sides import Sides
from ..recipe.stage import Stage
from .sampler import RowSampler, numbered
from .thoughts import THINKING, THOUGHT_OF

SAMPLED_ROWS = 2000
_TRIED_ROWS, _TOLD_ROWS = 16, 200
RowOrder: TypeAlias = RowSampler | StreamSampler


@dataclass
class StageRows(Sequence[TrainingRow]):
    """The rows of all sources on the sides of a search, with the hard negatives and the clusters that were mined for
    them.

    Args:
        mixed: the rows.
        mined: for them, before the stage; its clusters stay.
        sides: of the search.
        again: what was mined since, in the place of the other's hard negatives.
    """

    mixed: MixedRows
    mined: MinedRows | None = None
    sides: Sides = field(default_factory=Sides)
    again: MinedRows | None = None

    def __post_init__(self) -> None:
        self._records = [part.records() for part in self.mixed.parts]
        self._sides = [self.sides.of(part.source) for part in self.mixed.parts]

    def ask_with(self, prompts: PromptSet) -> None:
        """Set how rows are asked: a data set's instructions for which the prompts have no place stand in the words."""
        self.sides = replace(self.sides, prompts=prompts)
        self.__post_init__()

    def __len__(self) -> int:
        return len(self.mixed)

    def __getitem__(self, index: int) -> TrainingRow:  # type: ignore[override]  # nothing slices rows
        """Return a row with its mined hard negatives, as it is asked. Raise DataError, naming file and row, where it
        cannot be made."""
        return self.at_turn(index, None)

    def at_turn(self, index: int, turn: Turn | None) -> TrainingRow:
        """Return a row as it is read in an epoch, where it has a choice. Raise DataError as `__getitem__`, which always
        gives the same one."""
        part, inside = self.mixed.at(index)
        row = self.mixed.parts[part].at_turn(inside, turn)
        mined = self.again or self.mined
        if mined:
            found = mined.negatives(part, int(self._records[part][inside]))
            row = replace(row, hard_negatives=(*row.hard_negatives, *found))
        return self._sides[part].put(row)

    def name(self, index: int) -> tuple[str, str]:
        """Return a row's id and its source, for a message."""
        return self.mixed.where(index)

    def in_words(self) -> list[str]:
        """Return, a line each, what sources give where there are several, or where some rows are left out."""
        lines, parts = [], self.mixed.parts
        for part in parts:
            if len(parts) > 1 or part.skipped:
                out = f", {part.skipped:,} left out for lacking a role" if part.skipped else ""
                weight = "" if part.source.weight is None else f", weight {part.source.weight:g}"
                lines.append(f"{part.source.path}: {len(part):,} rows{out}{weight}")
        return lines

    def sample(self) -> list[TrainingRow]:
        """Return all rows, or of many some from everywhere, without those that cannot be made."""
        return [row for row in map(self.row_or_none, self.spread()) if row is not None]

    def spread(self) -> list[int]:
        """Return the numbers of all rows, or of many those of some from everywhere."""
        spread = np.unique(np.linspace(0, len(self) - 1, min(len(self), SAMPLED_ROWS)).astype(int))
        return list(spread.tolist())

    def first_of(self, part: int) -> TrainingRow | None:
        """Return the first row of a source that can be made, of some that are tried; None where there is none."""
        start, end = self.mixed.starts[part : part + 2].tolist()
        rows = map(self.row_or_none, range(start, min(start + _TRIED_ROWS, end)))
        return next((row for row in rows if row is not None), None)

    def row_or_none(self, index: int) -> TrainingRow | None:
        """Return a row, or None where it cannot be made."""
        try:
            return self[index]
        except DataError:
            return None  # named when the row's turn comes


def open_stage(stage: RowStage, thoughts: bool = False) -> tuple[StageRows, dict[str, str]]:
    """Return the rows of a stage, and of each file or folder that they come from the fingerprint.

    With `thoughts` queries are taught to think. Raise DataError for data that is missing, broken, or lacks what they or
    the loss need.
    """
    roles = [role for role in stage.roles if role != "hard_negative"]
    if thoughts and not THINKING.isdisjoint(roles):
        both = list(dict.fromkeys([*roles, THOUGHT_OF]))
        mixed = open_rows(stage.data, stage.rows, both, "a thought, or a term of the loss,")
    else:
        mixed = open_rows(stage.data, stage.rows, roles)
    fingerprints = mixed.fingerprints()
    if stage.mined is None:
        rows = StageRows(mixed, sides=stage.sides)
        if stage.rows_bring_negatives and not any(row.hard_negatives for row in rows.sample()):
            raise DataError(
                f"{stage.where}: no row brings a hard_negative, which a term needs; give mined or mine, or leave it out"
            )
        return rows, fingerprints
    mined = MinedRows(stage.mined, mixed, stage.rows)
    digest = hashlib.sha256()
    with stage.mined.open("rb") as file:
        for piece in iter(partial(file.read, 1 << 20), b""):
            digest.update(piece)
    return StageRows(mixed, mined, stage.sides), {**fingerprints, str(stage.mined): digest.hexdigest()}


def untold(rows: StageRows) -> list[str]:
    """Return a sentence for each source that may have task instructions, of whose rows, some from everywhere, one has
    none: its words are asked as they stand."""
    sentences = []
    for number, part in enumerate(rows.mixed.parts):
        if not FORMATS[part.source.format].instructed or not len(part):
            continue
        start, end = rows.mixed.starts[number : number + 2].tolist()
        spread = np.unique(np.linspace(start, end - 1, _TOLD_ROWS).astype(int))
        looked_at = [row for row in map(rows.row_or_none, spread.tolist()) if row is not None]
        without = sum(not (row.tasks and row.tasks.queries) for row in looked_at)
        if without:
            sentences.append(
                f"{part.source.path}: of {len(looked_at)} rows looked at {without} have no task instruction that is "
                "known, and are asked as they stand; give their instructions as tasks"
            )
    return sentences


def check_tasks(name: str, stage: Stage, rows: StageRows, process: ItemProcessor) -> None:
    """Raise DataError for a stage with tasks that the model's prompts have no place for, or that spell a token of the
    model's own: one row of each source that can be made is looked at."""
    neutral = dict.fromkeys((TEXT, INSTRUCTION), "a")
    for row in filter(None, map(rows.first_of, range(len(rows.mixed.parts)))):
        for item in (*(row.roles[role] for role in stage.roles if role in row.roles), *row.hard_negatives):
            try:
                slot, task = process.prompts.asked(item)
                if task:
                    process.filled((slot, task), len(item.images), neutral)
            except DataError as error:
                raise DataError(f"stage '{name}': {error}") from error


def check_avoided(name: str, stage: Stage, rows: StageRows, settings: Settings, taught: bool) -> None:
    """Raise DataError for a stage of whose rows, some from everywhere, one avoids something, where no query can.

    `settings` are the model's; `taught` says that its queries are distilled. A batch with a row that was not looked at
    is refused when it comes.
    """
    why = {
        "that is taken from a single vector, where pooling: multi makes one a token": settings.pooling in MULTI,
        "nothing is taken from lexical vectors": settings.lexical is not None,
        "a query encoder that is distilled reads no words alone": taught,
        "queries that are tuned with codes (jpq) know no words alone": stage.jpq is not None,
    }
    reason = next((reason for reason, is_so in why.items() if is_so), None)
    if reason is None:
        return
    for index in rows.spread():
        row = rows.row_or_none(index)
        if row and any(words_to_avoid(row.roles[role]) for role in stage.roles if role in row.roles):
            id, source = rows.name(index)
            raise DataError(
                f"stage '{name}': row {id} of {source} avoids something, and {reason}; leave the column `avoid` out"
            )


def order_of(stage: RowStage, rows: StageRows, seed: int, processes: int) -> RowOrder:
    """Return the order of the rows over all processes. Raise ConfigError for sizes that the sources cannot give."""
    if stage.streaming:
        return StreamSampler(rows.mixed, stage.batch_size // processes, seed, processes)
    levels = []
    if stage.per_image > 1:
        levels.append((rows.mixed.groups(), stage.per_image))
    if stage.per_cluster > 1 and rows.mined:
        clusters = rows.mined.clusters().tolist()
        levels.append((numbered(None if cluster < 0 else cluster for cluster in clusters), stage.per_cluster))
    return RowSampler(
        len(rows), seed, levels=levels, sources=rows.mixed.sources(), per_source=stage.per_source,
        weights=_weights(rows.mixed),
    )  # fmt: skip


def visited_rows(order: RowOrder, batch_size: int, steps: int, rows: int) -> np.ndarray:
    """Return the rows [V] int64 that a stage trains on, each once, in the order in which they come first.

    Args:
        order: of all processes; the epoch that it is set to changes.
        batch_size: rows a step.
        steps: of the stage.
        rows: how many there are in all.
    """
    whole = len(order) // batch_size * batch_size  # an incomplete batch is dropped
    left = batch_size * steps
    seen, found, epoch = np.zeros(rows, bool), [np.empty(0, np.int64)], 0
    while left > 0 and whole and not seen.all():
        order.set_epoch(epoch)
        coming = order.order()[: min(left, whole)]
        first = np.sort(np.unique(coming, return_index=True)[1])  # a source may be passed through twice
        found.append(coming[first][~seen[coming[first]]])
        seen[found[-1]] = True
        epoch, left = epoch + 1, left - len(coming)
    return np.concatenate(found)


def rows_of_steps(order: RowOrder, batch_size: int, first: int, last: int) -> np.ndarray:
    """Return the rows [V] int64 of the steps from `first` on, before `last`, both from 0, each row once.

    `order` is that of all processes; the epoch that it is set to changes.
    """
    found, step = [np.empty(0, np.int64)], first
    while step < last:
        order.set_epoch(0)
        whole = len(order) // batch_size
        if not whole:
            break
        epoch, start = divmod(step, whole)
        order.set_epoch(epoch)
        end = min(whole, start + last - step)
        found.append(order.order()[start * batch_size : end * batch_size])
        step += end - start
    return np.unique(np.concatenate(found))


def _weights(mixed: MixedRows) -> list[float] | None:
    given = [part.source.weight for part in mixed.parts]
    return None if all(weight is None for weight in given) else shares([len(part) for part in mixed.parts], given)
