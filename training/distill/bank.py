"""SPN4CIR's static bank (arXiv 2404.11317): every target of a stage encoded once, so that queries alone train.

The candidates of each query are then all targets of the data instead of those of a batch, for half the computation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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

from ..batch.examples import key_of
from ..data import TrainingRow
from ..data.numbers import number_of
from ..distributed.gathering import agreed, gather_ragged, interleaved, world
from ..mining.vector_cache import BLOCK
from ..recipe.config import Stage, Term


@dataclass(frozen=True)
class Bank:
    """Candidates of a term.

    Args:
        vectors: [M, D] float32, L2-normalised.
        inputs: [M] int64, the candidates' keys, increasing.
        asked, answers: [N] int64 each: query and answer of every row that can be made, by their keys.
        taught: [K, D] float32, the teacher's vectors of the queries; `asks` [K] int64 their keys, increasing. Both are
            empty for a term that is not taught.
    """

    vectors: Tensor
    inputs: Tensor
    asked: Tensor
    answers: Tensor
    taught: Tensor
    asks: Tensor

    def to(self, device: torch.device) -> Bank:
        return Bank(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def cut(self, dim: int) -> Bank:
        """With the vectors' first `dim` numbers, normalised again."""
        if dim == self.vectors.shape[1]:
            return self
        vectors, taught = (torch.nn.functional.normalize(part[:, :dim], dim=-1) for part in (self.vectors, self.taught))
        return replace(self, vectors=vectors, taught=taught)

    def lesson(self, keys: Tensor) -> Tensor:
        """The teacher's vectors [B, D] of queries with some keys, all of which it holds."""
        return self.taught[torch.searchsorted(self.asks, keys)]

    def places(self, keys: Tensor) -> Tensor:
        """Where the candidates with some keys, all of which it holds, lie: [B] int64."""
        return torch.searchsorted(self.inputs, keys)


def read_bank(path: Path, device: torch.device) -> Bank | None:
    """The bank that a run made before; None where there is none. Raises ModelError for a damaged file."""
    if not agreed(path.is_file, device):
        return None
    try:
        return Bank(**load_file(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read here ({error}); start the same command again") from error
    except (SafetensorError, TypeError) as error:
        raise ModelError(f"{path} is damaged; remove {path.parent} to train the stage again") from error


def make_bank(
    stage: Stage,
    term: Term,
    rows: Sequence[TrainingRow],
    embedder: MLLMEmbedder,
    bf16: bool,
    path: Path,
) -> Bank:
    """The bank of a term, by `embedder`, which is the teacher of one that is taught; each process encodes a share.

    Candidates that cannot be read are left out, and rows that they answer cannot be trained on (`Reader.banks`).

    `bf16`: encode under bfloat16 autocast, as the training does. Raises DataError for a disk without room, for
    processes that see different data, and where more candidates than the stage's `max_unreadable` cannot be read.
    """
    items: dict[int, Item] = {}
    queries: dict[int, Item] = {}
    asked, answers = [], []
    for index in range(len(rows)):
        try:
            row = rows[index]
            found = list(_candidates(term, row, stage.hard_negatives))
        except DataError:
            continue  # told when the row's turn comes
        asked.append(key_of(row.roles[term.query[0]]))
        answers.append(key_of(row.roles[term.positive[0]]))
        if term.taught:
            queries.setdefault(asked[-1], row.roles[term.query[0]])
        for item in found:
            items.setdefault(key_of(item), item)
    check_space(path, (len(items) + len(queries)) * (4 * embedder.dimension + 8) + 16 * len(asked), "a bank")
    candidates, lessons = (_kept(part, stage, embedder, bf16) for part in (items, queries))
    asked, answers = (torch.tensor(part, dtype=torch.long) for part in (asked, answers))
    bank = Bank(*candidates, asked, answers, *lessons)
    if world()[0] == 0:
        try:
            with atomic_file(path) as temporary:
                save_file(vars(bank), temporary)
        except SafetensorError as error:
            raise DataError(f"cannot write {path} ({error}); make room and start the same command again") from error
    return bank


def _kept(items: dict[int, Item], stage: Stage, embedder: MLLMEmbedder, bf16: bool) -> tuple[Tensor, Tensor]:
    """Vectors [M, D] and keys [M], increasing, of what can be read.

    They are encoded in the order of the rows, in which what is asked of one picture stands together.
    """
    if not items:
        return torch.zeros(0, embedder.dimension), torch.zeros(0, dtype=torch.long)
    _check_same(list(items), stage, embedder.device)
    vectors, readable = _encoded(list(items.values()), embedder, bf16, stage.max_unreadable)
    keys, order = torch.tensor(list(items), dtype=torch.long).sort()
    kept = order[readable[order]]
    return vectors[kept], keys[readable[order]]


def _check_same(keys: list[int], stage: Stage, device: torch.device) -> None:
    """Raises DataError where the processes do not see the same candidates, of which each encodes a share."""
    mine = torch.tensor([number_of(repr(keys))], device=device)
    if world()[1] > 1 and len(torch.cat(gather_ragged(mine)).unique()) > 1:
        raise DataError(f"{stage.where}: the processes read different rows; start again when all see the same files")


def _encoded(items: Sequence[Item], embedder: MLLMEmbedder, bf16: bool, most: float) -> tuple[Tensor, Tensor]:
    """[M, D] float32 on the CPU, the processes' shares put together, and [M] bool, which of the items were readable."""
    rank, count = world()
    share, device = items[rank::count], embedder.device
    vectors, readable = torch.zeros(len(share), embedder.dimension), torch.ones(len(share), dtype=torch.bool)
    reasons: list[str] = []
    with tqdm(total=len(share), desc="embedding the bank", disable=None if rank == 0 else True, mininterval=1) as bar:
        for start in range(0, len(share), BLOCK):
            block = share[start : start + BLOCK]
            why: dict[int, str] = {}
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                found = embedder.encode(block, show_progress=False, unreadable=why)
            vectors[start : start + len(block)] = torch.from_numpy(found)
            readable[[start + place for place in why]] = False
            reasons += why.values()
            bar.update(len(block))
    if count > 1:
        vectors, readable = (interleaved(gather_ragged(part.to(device))).cpu() for part in (vectors, readable))
    lost = int((~readable).sum())
    if lost > most * len(items):
        first = f": {reasons[0]}" if reasons else ""
        raise DataError(
            f"{lost:,} of the {len(items):,} candidates of a bank cannot be read, more than max_unreadable {most:g} "
            f"allows{first}; replace them, or raise max_unreadable"
        )
    return vectors, readable


def _candidates(term: Term, row: TrainingRow, hard_negatives: int | None) -> Iterable[Item]:
    yield row.roles[term.positive[0]]
    for role in term.negatives:
        if role == "hard_negative":
            yield from row.hard_negatives[:hard_negatives]
        elif role in row.roles:
            yield row.roles[role]
        else:
            raise DataError(f"row '{row.id}' has no {role}, which a term of the loss needs")
