"""The vectors of a stage's guide: of every input that the stage will compare, made once before it trains.

The rows that a stage visits are a function of its seed and its steps, so a short stage on many rows has few vectors
made, and more steps later add those of the further rows. They lie in parts of PART inputs, in the order in which the
rows come: a part that is there is not made again, whoever made it. Encoding a batch with the guide while it trains, as
GIST's own code does (arXiv 2402.16829), would keep a second model in memory and encode an input in each epoch anew.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mllm_embed import MLLMEmbedder
from mllm_embed.encode.encoder import check_single
from mllm_embed.errors import DataError, ModelError
from mllm_embed.files import atomic_file, check_space, read_json, write_json
from mllm_embed.saving.provenance import SPACE_FIELDS, THOUGHTS, check_same, facts
from mllm_embed.types import Item

from ..batch.stage_data import RowOrder, visited_rows
from ..data import TrainingRow
from ..data.numbers import number_of
from ..distributed.gathering import gather_ragged, world
from ..distributed.zero import loaded_whole
from ..false_negatives.guide import KEYS, GuideVectors
from ..false_negatives.keys import ItemKeys, as_told, key_of
from ..recipe.config import Recipe
from ..recipe.form import asked_as
from ..recipe.pixels import with_pixels
from ..recipe.stage import Stage
from ..recipe.stage_keys.guide import Guide
from ..recipe.stage_keys.terms import Term
from .bank import Bank, candidates_of
from .teacher import release_memory

PART = 4096  # inputs of a part, which a kill may cost
MANIFEST = "guide.json"


def load_guide(recipe: Recipe, guide: Guide, bf16: bool) -> MLLMEmbedder:
    """Return a guide, its adapter merged; in float32, or with `bf16` in what it was saved in.

    One without a model of its own is the recipe's: as the recipe asks it, or with an adapter as that was saved. Raise
    ModelError or ConfigError where it cannot be loaded.
    """
    given: dict[str, Any] = {"preset": guide.preset, "prompts": guide.prompts}
    if guide.model is None:
        own = asked_as(recipe) if guide.adapter is None else {"max_tokens": recipe.max_tokens}
        given = own | {"quantization": recipe.quantization, "prompts": guide.prompts or own.get("prompts")}
    embedder = MLLMEmbedder.from_pretrained(
        guide.model or recipe.model, dtype="auto" if bf16 else "float32", **{"adapter": guide.adapter} | given
    ).merge_adapter()
    check_single(embedder, "a guide")
    return with_pixels(recipe, embedder) if guide.model is None and guide.adapter is None else embedder


def stage_guide(
    recipe: Recipe,
    name: str,
    rows: Sequence[TrainingRow],
    visited: np.ndarray,
    bf16: bool,
    device: torch.device,
    zero: Any | None,
    check: Callable[[], None],
) -> GuideVectors:
    """Return the vectors of a stage's guide, which is loaded where some are not there yet, and let go of then.

    Raise as `load_guide` and `make_guide_vectors`, whose arguments these are; `zero` is what transformers knows of a
    ZeRO-3 config, None without one.
    """
    stage = recipe.stages[name]
    guide = stage.guide or Guide()

    def load() -> MLLMEmbedder:
        with loaded_whole(zero):
            return load_guide(recipe, guide, bf16)

    folder = recipe.checkpoints_of(name) / "guide"
    vectors = make_guide_vectors(stage, rows, visited, load, bf16, folder, device, check)
    release_memory()
    if world()[0] == 0:
        named = f"{guide.model or recipe.model}{f' with {guide.adapter}' if guide.adapter else ''}"
        tqdm.write(f"{name}  guided by {named}: vectors of {len(vectors):,} inputs")
    return vectors


def guided_rows(stage: Stage, order: RowOrder, steps: int, rows: int) -> np.ndarray:
    """Return the rows [V] int64 of a stage, of `rows`, that its guide must know, in an order in which they come.

    A bank's candidates, and those of the mining while it trains, are of all rows.
    """
    if stage.mine is not None or any(term.uses_bank for term in stage.terms):
        return np.arange(rows)
    return visited_rows(order, stage.batch_size, steps, rows)


def guide_banks(
    guide: GuideVectors | None, banks: Mapping[str, Bank], stage: Stage, rows: Sequence[TrainingRow], key: ItemKeys
) -> dict[str, Tensor]:
    """Return the guide's vectors of each bank's candidates, by the name of its term; none without a guide."""
    if guide is None:
        return {}
    banked = [term for term in stage.terms if term.uses_bank]
    return {term.name: bank_vectors(banks[term.name], term, stage, rows, key, guide) for term in banked}


def bank_vectors(
    bank: Bank, term: Term, stage: Stage, rows: Sequence[TrainingRow], key: ItemKeys, vectors: GuideVectors
) -> Tensor:
    """Return the guide's vectors [M, Dg] float16 of a bank's candidates, NaN for one that it has none of.

    Args:
        bank: of the term.
        term: with `bank`.
        stage: of the term.
        rows: the stage's, all of which are read once more: a bank knows its candidates as the model is asked for them.
        key: gives the keys of the bank.
        vectors: the guide's.
    """
    keys = np.zeros(len(bank.inputs), np.int64)
    known, held = np.zeros(len(keys), bool), bank.inputs.numpy()
    for index in range(len(rows)):
        try:
            items = list(candidates_of(term, rows[index], stage.hard_negatives))
        except DataError:
            continue
        for item in items:
            number = key(item)
            place = min(int(np.searchsorted(held, number)), len(held) - 1)
            if held[place] == number and not known[place]:
                keys[place], known[place] = key_of(item, as_told), True
    return torch.from_numpy(vectors.take(keys))


def items_of(row: TrainingRow, stage: Stage) -> list[Item]:
    """Return what of a row the terms of a stage compare, in some epoch or other, in one order."""
    items: list[Item] = []
    for role in stage.roles:
        if role == "hard_negative":
            items += row.hard_negatives[: stage.hard_negatives]
        else:
            items += row.playing(role)
    return items


@dataclass(frozen=True)
class _Inputs:
    """The distinct inputs of rows, in the order in which the rows come: [M] each.

    Args:
        keys: int64, of each.
        rows: int64, the row that brings it first.
        numbers: int64, its place in `items_of` that row.
    """

    keys: np.ndarray
    rows: np.ndarray
    numbers: np.ndarray

    def parts(self) -> list[_Inputs]:
        """Return them cut into parts, each in the order of the rows: what is asked of one picture stands together."""
        cut = [slice(start, start + PART) for start in range(0, len(self.keys), PART)]
        return [_Inputs(self.keys[part], self.rows[part], self.numbers[part])._by_row() for part in cut]

    def _by_row(self) -> _Inputs:
        order = np.lexsort((self.numbers, self.rows))
        return _Inputs(self.keys[order], self.rows[order], self.numbers[order])

    @property
    def name(self) -> str:
        """The name of a part with these inputs."""
        return f"{number_of(self.keys.tobytes()) & (1 << 64) - 1:016x}"


def _inputs_of(stage: Stage, rows: Sequence[TrainingRow], visited: np.ndarray) -> _Inputs:
    """Return the inputs of the rows `visited` [V] int64; no picture is opened. Memory: 24 bytes an input of a row."""
    keys, brought, numbers = array("q"), array("q"), array("q")
    hidden = None if world()[0] == 0 else True  # None: no bar where there is no terminal
    for index in tqdm(visited.tolist(), desc="listing for the guide", unit="row", disable=hidden, mininterval=1):
        try:
            items = items_of(rows[index], stage)
        except DataError:
            continue  # named when the row's turn comes
        keys.extend(key_of(item, as_told) for item in items)
        brought.extend([index] * len(items))
        numbers.extend(range(len(items)))
    every = np.array(keys, np.int64)
    first = np.sort(np.unique(every, return_index=True)[1])
    return _Inputs(every[first], np.array(brought, np.int64)[first], np.array(numbers, np.int64)[first])


def make_guide_vectors(
    stage: Stage,
    rows: Sequence[TrainingRow],
    visited: np.ndarray,
    load: Callable[[], MLLMEmbedder],
    bf16: bool,
    folder: Path,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
) -> GuideVectors:
    """Return the guide's vectors of all inputs of some rows; each process makes a share of what is not there yet.

    An input that the guide cannot read has none. Raise DataError for a disk without room, for processes that see
    different rows, and where more than the stage's `max_unreadable` cannot be read; ConfigError where the folder holds
    parts by another guide.

    Args:
        stage: with a guide.
        rows: its rows.
        visited: [V] int64, those that it will train on, in their order.
        load: gives the guide, which is asked for only where parts are missing.
        bf16: encode under bfloat16 autocast, as the training does.
        folder: of the parts.
        device: of this process.
        check: called between parts; raises where the run is to stop.
    """
    inputs = _inputs_of(stage, rows, visited)
    parts = inputs.parts()
    names = tuple(part.name for part in parts)
    _check_same(names, stage, device)
    rank, count = world()
    missing = [part for part in parts if not (folder / f"{part.name}.npy").is_file()]
    first = ""
    if _any(bool(missing), device):
        encoder = _Encoder(load(), stage, rows, bf16, folder)
        encoder.check_folder(sum(len(part.keys) for part in missing), rank == 0)
        own = [part for number, part in enumerate(parts) if number % count == rank]
        first = encoder.make([part for part in own if not (folder / f"{part.name}.npy").is_file()], check)
    _any(False, device)  # all have written theirs
    vectors = GuideVectors(folder, names)
    lost = len(inputs.keys) - len(vectors)
    if lost > stage.max_unreadable * len(inputs.keys):
        raise DataError(
            f"{lost:,} of the {len(inputs.keys):,} inputs of {stage.where} cannot be read by the guide, more than "
            f"max_unreadable {stage.max_unreadable:g} allows{first}; replace them, or raise max_unreadable, and remove "
            f"{folder}"
        )
    return vectors


def _any(mine: bool, device: torch.device) -> bool:
    """Return whether it is so in any process. All must call it, and wait here for one another."""
    if world()[1] == 1:
        return mine
    return bool(torch.cat(gather_ragged(torch.tensor([int(mine)], device=device))).any())


def _check_same(names: tuple[str, ...], stage: Stage, device: torch.device) -> None:
    digest = torch.tensor([number_of(*names)], device=device)
    if world()[1] > 1 and len(torch.cat(gather_ragged(digest)).unique()) > 1:
        raise DataError(f"{stage.where}: the processes read different rows; start again when all see the same files")


class _Encoder:
    """Writes the parts of a guide that is loaded."""

    def __init__(self, embedder: MLLMEmbedder, stage: Stage, rows: Sequence[TrainingRow], bf16: bool, folder: Path):
        self.embedder, self.stage, self.rows, self.bf16, self.folder = embedder, stage, rows, bf16, folder

    def check_folder(self, missing: int, first: bool) -> None:
        """Check that the folder has room for the vectors of so many inputs, and no parts by anything else."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / MANIFEST
        made_by = facts(self.embedder.provenance, SPACE_FIELDS)
        if path.is_file():
            check_same(read_json(path, f"remove {self.folder}"), made_by, (*SPACE_FIELDS, THOUGHTS), self.folder)
        elif first:
            write_json(path, made_by)
        if first:
            check_space(self.folder, missing * (2 * self.embedder.dimension + 8), "a guide's vectors")

    def make(self, parts: Sequence[_Inputs], check: Callable[[], None]) -> str:
        """Write parts; return why the first input could not be read, in words for a message, "" where all could."""
        reasons: list[str] = []
        hidden = None if world()[0] == 0 else True
        total = sum(len(part.keys) for part in parts)
        with tqdm(total=total, desc="embedding for the guide", disable=hidden, mininterval=1) as bar:
            for part in parts:
                check()
                self._write(part, reasons)
                bar.update(len(part.keys))
        return f": {reasons[0]}" if reasons else ""

    def _write(self, part: _Inputs, reasons: list[str]) -> None:
        items = self._items(part)
        why: dict[int, str] = {}
        with torch.autocast(self.embedder.device.type, torch.bfloat16, enabled=self.bf16):
            vectors = self.embedder.encode(items, show_progress=False, unreadable=why)
        reasons += (why[place] for place in sorted(why))
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise ModelError(f"the guide's vector of {items[bad[0]]} holds NaN: nothing can be near it; mend the guide")
        read = np.setdiff1d(np.arange(len(items)), list(why))
        # a part is there when its vectors are, so its keys come first
        for ending, values in ((KEYS, part.keys[read]), (".npy", vectors[read].astype(np.float16))):
            with atomic_file(self.folder / f"{part.name}{ending}") as temporary, temporary.open("wb") as file:
                np.save(file, values, allow_pickle=False)

    def _items(self, part: _Inputs) -> list[Item]:
        items: list[Item] = []
        row, brought = -1, []
        for index, number in zip(part.rows.tolist(), part.numbers.tolist(), strict=True):
            if index != row:
                row, brought = index, items_of(self.rows[index], self.stage)
            items.append(brought[number])
        return items
