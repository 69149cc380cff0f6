"""The static bank of SPN4CIR (arXiv 2404.11317): every target of a stage encoded once, so that queries alone train.

The candidates of each query are then all targets of the data instead of those of a batch, for half the computation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import DataError, ModelError
from mllm_embed.files import atomic_file, check_space
from mllm_embed.types import Item

from ..data import TrainingRow
from ..data.numbers import number_of
from ..distributed.gathering import agreed, gather_ragged, interleaved, world
from ..false_negatives.keys import ItemKeys
from ..mining.vector_cache import BLOCK_INPUTS
from ..recipe.stage import Stage
from ..recipe.stage_keys.terms import Term


@dataclass(frozen=True)
class Bank:
    """Candidates of a term.

    Args:
        vectors: [M, D] float32, L2-normalised.
        inputs: [M] int64, the candidates' keys, increasing.
        taught: [K, D] float32, L2-normalised, the teacher's vectors of the queries; empty for a term without teacher.
        asks: [K] int64, the keys of these queries, increasing.
    """

    # the names are those of the tensors in the file

    vectors: Tensor
    inputs: Tensor
    taught: Tensor
    asks: Tensor

    def to(self, device: torch.device) -> Bank:
        """Return the bank on a device."""
        return Bank(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def cut(self, dim: int) -> Bank:
        """Return the bank with the vectors' first `dim` numbers, normalised again."""
        if dim == self.vectors.shape[1]:
            return self
        vectors, taught = (torch.nn.functional.normalize(part[:, :dim], dim=-1) for part in (self.vectors, self.taught))
        return replace(self, vectors=vectors, taught=taught)

    def teacher_vectors(self, keys: Tensor) -> Tensor:
        """Return the teacher's vectors [B, D] float32 of queries by their keys [B], all of which it holds."""
        return self.taught[torch.searchsorted(self.asks, keys)]

    def found(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of some inputs, by their keys [B], are candidates, and their rows: two [F] int64."""
        rows = torch.searchsorted(self.inputs, keys).clamp(max=len(self.inputs) - 1)
        there = torch.nonzero(self.inputs[rows] == keys)[:, 0]
        return there, rows[there]

    def rows(self, keys: Tensor) -> Tensor:
        """Return the rows [B] int64 of candidates by their keys [B], all of which it holds."""
        return torch.searchsorted(self.inputs, keys)


def read_bank(path: Path, device: torch.device) -> Bank | None:
    """Return the bank that a run made before; None where there is none.

    Raise ModelError for a damaged file, DataError for one that this process cannot read.
    """
    if not agreed(path.is_file, device):
        return None
    try:
        found = load_file(path)
        return Bank(**{part.name: found.pop(part.name) for part in fields(Bank)})
    except OSError as error:
        raise DataError(f"{path} cannot be read here ({error}); start the same command again") from error
    except (SafetensorError, KeyError) as error:
        raise ModelError(f"{path} is damaged; remove {path.parent} to train the stage again") from error


@dataclass
class _BankInputs:
    """The distinct candidates and queries of a term, by key."""

    candidates: dict[int, Item] = field(default_factory=dict)
    queries: dict[int, Item] = field(default_factory=dict)


def make_bank(
    stage: Stage,
    term: Term,
    rows: Sequence[TrainingRow],
    embedder: MLLMEmbedder,
    bf16: bool,
    path: Path,
    key: ItemKeys,
) -> Bank:
    """Return the bank of a term, and write it; each process encodes a share.

    Candidates that cannot be read are left out, and rows that they answer cannot be trained on (`Reader.banks`). Raise
    DataError for a disk without room, for processes that see different data, and where more candidates than the
    stage's `max_unreadable` cannot be read.

    Args:
        stage: the stage of the term.
        term: one with `bank` or `taught`.
        rows: the stage's.
        embedder: encodes the candidates; of a term that is taught the teacher, which encodes the queries too.
        bf16: encode under bfloat16 autocast, as the training does.
        path: the file.
        key: of the stage's inputs, by how what is trained asks them, whoever encodes.
    """
    inputs = _inputs_of(term, rows, stage.hard_negatives, key)
    count = len(inputs.candidates) + len(inputs.queries)
    check_space(path, count * (4 * embedder.dimension + 8), "a bank")
    vectors, keys = _encode_readable(inputs.candidates, stage, embedder, bf16)
    taught, asks = _encode_readable(inputs.queries, stage, embedder, bf16)
    bank = Bank(vectors, keys, taught, asks)
    if world()[0] == 0:
        with atomic_file(path) as temporary:
            save_file(vars(bank), temporary)
    return bank


def _inputs_of(term: Term, rows: Sequence[TrainingRow], hard_negatives: int | None, key: ItemKeys) -> _BankInputs:
    inputs = _BankInputs()
    for index in range(len(rows)):
        try:
            row = rows[index]
            candidates = list(candidates_of(term, row, hard_negatives))
        except DataError:
            continue  # named when the row's turn comes
        for item in row.playing(term.query[0]) if term.taught else ():
            inputs.queries.setdefault(key(item), item)
        for item in candidates:
            inputs.candidates.setdefault(key(item), item)
    return inputs


def _encode_readable(items: dict[int, Item], stage: Stage, embedder: MLLMEmbedder, bf16: bool) -> tuple[Tensor, Tensor]:
    """Return vectors [M, D] float32 and keys [M] int64, increasing, of what can be read.

    They are encoded in the order of the rows, in which what is asked of one picture stands together.
    """
    if not items:
        return torch.zeros(0, embedder.dimension), torch.zeros(0, dtype=torch.long)
    _check_same(list(items), stage, embedder.device)
    vectors, readable = _encode_shares(list(items.values()), embedder, bf16, stage.max_unreadable)
    keys, order = torch.tensor(list(items), dtype=torch.long).sort()
    return vectors[order[readable[order]]], keys[readable[order]]


def _check_same(keys: list[int], stage: Stage, device: torch.device) -> None:
    """Raise DataError where the processes do not see the same candidates, of which each encodes a share."""
    digest = torch.tensor([number_of(repr(keys))], device=device)
    if world()[1] > 1 and len(torch.cat(gather_ragged(digest)).unique()) > 1:
        raise DataError(f"{stage.where}: the processes read different rows; start again when all see the same files")


def _encode_shares(items: Sequence[Item], embedder: MLLMEmbedder, bf16: bool, most: float) -> tuple[Tensor, Tensor]:
    """Return the vectors [M, D] float32 on the CPU, the processes' shares put together, and [M] bool, which were read.

    Raise DataError where more than the share `most` of all items could not be read.
    """
    rank, count = world()
    vectors, readable, reasons = _encode_share(items[rank::count], embedder, bf16)
    if count > 1:
        vectors, readable = (interleaved(gather_ragged(part.to(embedder.device))).cpu() for part in (vectors, readable))
    lost = int((~readable).sum())
    if lost > most * len(items):
        first = f": {reasons[0]}" if reasons else ""
        raise DataError(
            f"{lost:,} of the {len(items):,} candidates of a bank cannot be read, more than max_unreadable {most:g} "
            f"allows{first}; replace them, or raise max_unreadable"
        )
    return vectors, readable


def _encode_share(share: Sequence[Item], embedder: MLLMEmbedder, bf16: bool) -> tuple[Tensor, Tensor, list[str]]:
    """Return this process's vectors, which of its items were read, and why the others could not be."""
    vectors, readable = torch.zeros(len(share), embedder.dimension), torch.ones(len(share), dtype=torch.bool)
    reasons: list[str] = []
    hidden = None if world()[0] == 0 else True  # None: no bar where there is no terminal
    with tqdm(total=len(share), desc="embedding the bank", disable=hidden, mininterval=1) as bar:
        for start in range(0, len(share), BLOCK_INPUTS):
            block = share[start : start + BLOCK_INPUTS]
            why: dict[int, str] = {}
            with torch.autocast(embedder.device.type, torch.bfloat16, enabled=bf16):
                encoded = embedder.encode(block, show_progress=False, unreadable=why)
            vectors[start : start + len(block)] = torch.from_numpy(encoded)
            readable[[start + place for place in why]] = False
            reasons += (why[place] for place in sorted(why))
            bar.update(len(block))
    return vectors, readable, reasons


def candidates_of(term: Term, row: TrainingRow, hard_negatives: int | None) -> Iterable[Item]:
    """Yield a row's answers and its negatives. Raise DataError where it lacks one that the term names."""
    yield from row.playing(term.positive[0])
    for role in term.negatives:
        if role == "hard_negative":
            yield from row.hard_negatives[:hard_negatives]
        elif role in row.roles:
            yield row.roles[role]
        else:
            raise DataError(f"row '{row.id}' has no {role}, which a term of the loss needs")
