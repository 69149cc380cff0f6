"""Examples of rows: every input read and measured where the rows are loaded, in the worker processes."""

from __future__ import annotations

import math
import signal
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset, get_worker_info

from mllm_embed.encode.avoiding import without_avoid, words_to_avoid
from mllm_embed.errors import DataError, ImageError, MLLMEmbedError
from mllm_embed.inputs.images import name_of
from mllm_embed.types import ImageLike, Item

from ..data import TrainingRow
from ..data.numbers import Turn, number_of
from ..data.replacement import replacement
from ..data.stream import hold_blocks
from ..false_negatives.keys import Asked, ItemKeys, as_told, content_of, key_of
from ..false_negatives.known import ASKED, RIGHT, Relations, told_by
from .progress import Progress

if TYPE_CHECKING:
    from mllm_embed.thoughts.writer import Thought

    from .stage_data import StageRows

CACHED_INPUTS = 64  # rows that share a picture come one after the other
HELD_PIXELS = 400_000_000
"""Pixels of decoded pictures, four bytes each, that wait in a process for their batch; others are decoded once more."""


@dataclass(frozen=True)
class PreparedInput:
    """An input, its pictures decoded as long as there is room, and what was learned from decoding them.

    Args:
        item: the input.
        tokens: how many it takes.
        number: what equal inputs share everywhere.
        pixels: how many its pictures have.
        guide_key: by which the stage's guide knows it; 0 without one.
        apart: of a query that avoids something, the query without that, and the words that it avoids: these two are
            encoded; None for others, which are encoded as they are.
        thought: what it thinks first; None where it does not.
        learned: whether the model is taught to think that.
    """

    item: Item
    tokens: int
    number: int
    pixels: int = 0
    guide_key: int = 0
    apart: tuple[PreparedInput, PreparedInput] | None = None
    thought: Thought | None = None
    learned: bool = False

    @property
    def encoded(self) -> tuple[PreparedInput, ...]:
        """What the model encodes of it."""
        return self.apart or (self,)


class UnreadableRow(NamedTuple):
    """A row that could not be read, the file it comes from, and why."""

    row: str
    source: str
    reason: str


@dataclass(frozen=True)
class Example:
    """A row as the collator needs it.

    Args:
        id: the row's.
        roles: by role the input that plays it; of hard negatives none or several.
        keys: by role the keys of its inputs, where what is right is known by them; as ASKED and RIGHT the pairs that
            the row tells itself.
        unreadable: the rows in whose place it stands.
        draw: a number of this row and epoch by chance, from 0 to 1, by which a share of the rows is chosen.
    """

    id: str
    roles: dict[str, tuple[PreparedInput, ...]]
    keys: dict[str, tuple[int, ...]]
    unreadable: tuple[UnreadableRow, ...] = ()
    draw: float = 1.0


class Reader:
    """A maker of examples from rows, which keeps the last few inputs, since neighbouring rows share them."""

    def __init__(
        self,
        prepare: Callable[[Item], tuple[Item, int]],
        roles: Sequence[str],
        keyed: Sequence[str] = (),
        hard_negatives: int | None = None,
        banks: Sequence[tuple[str, np.ndarray]] = (),
        asked: Asked = as_told,
        guided: bool = False,
        key: ItemKeys | None = None,
        relations: Relations | None = None,
        thinking: Callable[[TrainingRow, PreparedInput], PreparedInput] | None = None,
    ):
        """Set what is read of a row.

        Args:
            prepare: `ItemProcessor.prepared`, which decodes an item's pictures and counts its tokens.
            roles: those that are read.
            keyed: those of which the keys are needed.
            hard_negatives: how many of a row's hard negatives are read, the first ones; by default all.
            banks: roles whose inputs must stand in a bank, and the keys [M] int64 that this holds, increasing.
            asked: how an item is asked (`keys.asked_by`).
            key: gives the key of an item; by default by `asked` and the names of pictures alone.
            guided: whether inputs are looked up among a guide's.
            relations: by which a row tells what else is right; None where it is not asked.
            thinking: gives an input of a row its thought; None where nothing thinks.
        """
        self.prepare, self.roles, self.keyed, self.hard_negatives = prepare, roles, keyed, hard_negatives
        self.banks, self.asked, self.key = banks, asked, key or ItemKeys(asked)
        self.guided, self.relations, self.thinking = guided, relations, thinking
        self._cache: OrderedDict[Hashable, PreparedInput] = OrderedDict()
        self._held = _HeldPixels()

    def __call__(self, row: TrainingRow) -> Example:
        """Return the example of a row. Raise ImageError or DataError for an input that is missing or cannot be read."""
        keys = {role: tuple(map(self.key, self._items(row, role))) for role in self.keyed}
        for role, held in self.banks:
            _check_in_bank(row.roles[role], keys[role][0], role, held)
        if self.relations:
            keys[ASKED], keys[RIGHT] = told_by(row, self.relations, self.key)
        roles = {role: tuple(map(partial(self._thinking, row), self._items(row, role))) for role in self.roles}
        return Example(row.id, roles, keys)

    def _items(self, row: TrainingRow, role: str) -> tuple[Item, ...]:
        if role == "hard_negative":
            return row.hard_negatives[: self.hard_negatives]
        if role not in row.roles:
            raise DataError(f"row '{row.id}' has no {role}, which a term of the loss needs")
        return (row.roles[role],)

    def _thinking(self, row: TrainingRow, item: Item) -> PreparedInput:
        # its thought is the row's, and not the input's, which rows share
        prepared = self._prepared(item)
        return self.thinking(row, prepared) if self.thinking else prepared

    def _prepared(self, item: Item) -> PreparedInput:
        key = item.key
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        prepared = self._read(item)
        self._cache[key] = prepared
        if len(self._cache) > CACHED_INPUTS:
            self._cache.popitem(last=False)
        return prepared

    def _read(self, item: Item) -> PreparedInput:
        guide_key = key_of(item, as_told) if self.guided else 0
        words = words_to_avoid(item)
        if words is not None:
            query, avoided = self._prepared(without_avoid(item)), self._prepared(words)
            number = number_of(f"{query.number} avoids {avoided.number}")
            return replace(query, number=number, guide_key=guide_key, apart=(query, avoided))
        loaded, tokens = self.prepare(item)
        pixels = [math.prod(picture.size) for picture in loaded.images if isinstance(picture, Image.Image)]
        kept = loaded if self._held.have_room(loaded.images, sum(pixels)) else item
        return PreparedInput(kept, tokens, content_of(loaded, self.asked), sum(pixels), guide_key)


class _HeldPixels:
    """A count of the pixels of decoded pictures that are still in use somewhere in this process."""

    def __init__(self) -> None:
        """Count none."""
        self._count = 0

    def have_room(self, pictures: Sequence[ImageLike], pixels: int) -> bool:
        """Count an input's pictures until they are let go of; False, where they are too many."""
        if self._count + pixels > HELD_PIXELS:
            return False
        if pictures:
            self._count += pixels
            weakref.finalize(pictures[0], self._let_go, pixels)
        return True

    def _let_go(self, pixels: int) -> None:
        self._count -= pixels


def _check_in_bank(item: Item, key: int, role: str, held: np.ndarray) -> None:
    """Raise ImageError for an input that is not among the keys `held` [M] int64: it could not be read then."""
    place = np.searchsorted(held, key)
    if place < len(held) and held[place] == key:
        return
    shown = ", ".join(map(name_of, item.images)) or (item.words or "")[:60]
    raise ImageError(
        f"its {role} ({shown}) could not be read when the stage's bank was made; mend it and train the stage again"
    )


class Examples(Dataset[Example | MLLMEmbedError]):
    """The examples of a stage's rows; one that cannot be read is replaced by another of its source, and named.

    Args:
        rows: of the stage.
        read: makes the example of a row.
        seed: of the choice of replacements, and of what is read of rows that have a choice.
        progress: where a worker says what row it is at.

    `epoch`, from 0, decides what is read of such rows; worker processes are started for each epoch, and know it.
    """

    def __init__(
        self, rows: StageRows, read: Callable[[TrainingRow], Example], seed: int, progress: Progress | None = None
    ):
        self.rows, self.read, self.seed, self.progress = rows, read, seed, progress
        self.epoch = 0
        self._started = False

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example | MLLMEmbedError:
        """Return an example; in a worker an error too, which torch would wrap in the worker's traceback."""
        worker = get_worker_info()
        if not self._started:
            hold_blocks(self.rows.mixed, worker.num_workers if worker else 0)
            self._started = True
            if worker:  # a scheduler sends SIGTERM to all; the process that trains ends its workers
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if worker and self.progress:
            self.progress.begins(worker.id, index)
        try:
            return self._readable(index)
        except MLLMEmbedError as error:
            if worker is None:
                raise
            return error
        except OSError as error:
            if worker is None:
                raise
            return DataError(str(error))

    def _readable(self, index: int) -> Example:
        unreadable: list[UnreadableRow] = []
        while True:
            tries = len(unreadable)
            at = replacement(self.rows.mixed, index, tries, self.seed) if tries else index
            try:
                turn = Turn(self.seed, self.epoch)
                row = self.rows.at_turn(at, turn)
                return replace(self.read(row), unreadable=tuple(unreadable), draw=turn.draw(f"thought {at}"))
            except (DataError, ImageError) as error:
                unreadable.append(UnreadableRow(*self.rows.name(at), str(error)))
