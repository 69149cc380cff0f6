"""From rows to examples: every input read and measured where the rows are loaded, in the worker processes."""

from __future__ import annotations

import signal
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch.utils.data import Dataset, get_worker_info

from mllm_embed.errors import DataError, ImageError, MLLMEmbedError
from mllm_embed.inputs.images import name_of
from mllm_embed.types import Item

from ..data import TrainingRow
from ..data.numbers import number_of
from ..data.replacement import replacement
from ..data.stream import hold_blocks

if TYPE_CHECKING:
    from .stage_data import StageRows

KEPT = 64  # inputs; rows that share a picture come one after the other


@dataclass(frozen=True)
class Ready:
    """An input with its pictures decoded, the tokens it takes, and a number that equal inputs share everywhere."""

    item: Item
    tokens: int
    number: int


class Lost(NamedTuple):
    """A row that could not be read."""

    row: str
    source: str
    reason: str


@dataclass(frozen=True)
class Example:
    """A row as the collator needs it: what plays each role, one input or several, the keys of what stands in a bank or
    asks one, and the rows that it stands for because they could not be read."""

    id: str
    roles: dict[str, tuple[Ready, ...]]
    keys: dict[str, int]
    lost: tuple[Lost, ...] = ()


class Reader:
    """Makes examples of rows; the last few inputs are kept, since neighbouring rows share them."""

    def __init__(
        self,
        prepare: Callable[[Item], tuple[Item, int]],
        roles: Sequence[str],
        keyed: Sequence[str] = (),
        hard_negatives: int | None = None,
        banks: Sequence[tuple[str, np.ndarray]] = (),
    ):
        """Read `roles`, with `prepare` (`ItemProcessor.prepared`); of `keyed` only keys are needed.

        Of a row's hard negatives the first `hard_negatives` are read, by default all. `banks`: roles whose
        inputs must stand in a bank, and the keys that this holds, increasing.
        """
        self.prepare, self.roles, self.keyed, self.hard_negatives = prepare, roles, keyed, hard_negatives
        self.banks = banks
        self._kept: OrderedDict[Hashable, Ready] = OrderedDict()

    def __call__(self, row: TrainingRow) -> Example:
        """Raises ImageError or DataError for an input that is missing or cannot be read."""
        keys = {role: key_of(row.roles[role]) for role in self.keyed}
        for role, held in self.banks:
            place = np.searchsorted(held, keys[role])
            if place == len(held) or held[place] != keys[role]:
                shown = ", ".join(map(name_of, row.roles[role].images)) or (row.roles[role].words or "")[:60]
                raise ImageError(
                    f"its {role} ({shown}) could not be read when the stage's bank was made; mend it and train the "
                    "stage again"
                )
        return Example(row.id, {role: tuple(map(self._ready, self._items(row, role))) for role in self.roles}, keys)

    def _items(self, row: TrainingRow, role: str) -> tuple[Item, ...]:
        if role == "hard_negative":
            return row.hard_negatives[: self.hard_negatives]
        if role not in row.roles:
            raise DataError(f"row '{row.id}' has no {role}, which a term of the loss needs")
        return (row.roles[role],)

    def _ready(self, item: Item) -> Ready:
        key = item.key
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        loaded, tokens = self.prepare(item)
        ready = self._kept[key] = Ready(loaded, tokens, content_of(loaded))
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return ready


class Examples(Dataset):
    """The examples of a stage's rows. One that cannot be read is replaced by another of its source, and told."""

    def __init__(self, rows: StageRows, read: Callable[[TrainingRow], Example], seed: int):
        self.rows, self.read, self.seed = rows, read, seed
        self._started = False

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example | MLLMEmbedError:
        """In a worker an error is handed on: torch would wrap it in the worker's traceback."""
        worker = get_worker_info()
        if not self._started:
            hold_blocks(self.rows.mixed, worker.num_workers if worker else 0)
            self._started = True
            if worker:  # a scheduler sends SIGTERM to all; the process that trains ends its workers
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            return self._readable(index)
        except MLLMEmbedError as error:
            if worker is None:
                raise
            return error

    def _readable(self, index: int) -> Example:
        lost: list[Lost] = []
        while True:
            at = replacement(self.rows.mixed, index, len(lost), self.seed) if lost else index
            try:
                return replace(self.read(self.rows[at]), lost=tuple(lost))
            except (DataError, ImageError) as error:
                lost.append(Lost(*self.rows.name(at), str(error)))


def key_of(item: Item) -> int:
    """A number, int64, that inputs of one name share: same prompt, same paths, same words; no picture is opened."""
    return number_of(repr(item.key))


def content_of(item: Item) -> int:
    """A number, int64, that inputs share in every process when the model cannot tell them apart: same prompt, same
    pixels, same words."""
    shown = (part for picture in item.images for part in (repr(picture.size), picture.tobytes()))
    return number_of(repr((item.role, item.text, item.words)), *shown)
