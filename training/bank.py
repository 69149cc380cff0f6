"""SPN4CIR's static bank (arXiv 2404.11317): every target of a stage encoded once, so that queries alone train.

The candidates of each query are then all targets of the data instead of those of a batch, for half the computation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
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

from .config import Stage, Term
from .data import Row
from .examples import key_of
from .gathering import decided, gather_ragged, interleaved, world
from .readable import encode_readable

_BLOCK = 2048  # items that are encoded between two steps of the progress bar


@dataclass(frozen=True)
class Bank:
    """Candidates of a term.

    Args:
        vectors: [M, D] float32, L2-normalised.
        inputs: [M] int64, the candidates' keys, increasing.
        asked, answers: [N] int64 each: every row's query and answer, by their keys.
        lost: [L] int64, the keys of candidates that could not be read.
    """

    vectors: Tensor
    inputs: Tensor
    asked: Tensor
    answers: Tensor
    lost: Tensor

    def to(self, device: torch.device) -> Bank:
        return Bank(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def cut(self, dim: int) -> Bank:
        """With the vectors' first `dim` numbers, normalised again."""
        if dim == self.vectors.shape[1]:
            return self
        return replace(self, vectors=torch.nn.functional.normalize(self.vectors[:, :dim], dim=-1))

    def places(self, keys: Tensor) -> Tensor:
        """Where the candidates with some keys lie: [B] int64."""
        return torch.searchsorted(self.inputs, keys)


def make_bank(
    stage: Stage,
    term: Term,
    rows: Sequence[Row],
    embedder: MLLMEmbedder,
    bf16: bool,
    path: Path,
) -> Bank:
    """The bank of a term, read from `path` where a run made it before; otherwise each process encodes a share of it.

    Candidates that cannot be read are left out, and the rows that they answer must not be trained on.

    `bf16`: encode under bfloat16 autocast, as the training does. Raises ModelError for a damaged file, DataError for a
    disk without room and where more candidates than the stage's `max_unreadable` cannot be read.
    """
    if decided(path.is_file, embedder.device):
        try:
            return Bank(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise ModelError(f"{path} is damaged; remove {path.parent} to train the stage again") from error
    items: dict[int, Item] = {}
    asked, answers = [], []
    for index in range(len(rows)):
        try:
            row = rows[index]
            found = list(_candidates(term, row, stage.hard_negatives))
        except DataError:
            continue  # told when the row's turn comes
        asked.append(key_of(row.roles[term.query[0]]))
        answers.append(key_of(row.roles[term.positive[0]]))
        for item in found:
            items.setdefault(key_of(item), item)
    check_space(path, len(items) * (4 * embedder.dimension + 8) + 16 * len(asked), "a bank")
    keys = sorted(items)
    vectors, readable = _encoded([items[key] for key in keys], embedder, bf16, stage.max_unreadable)
    kept = torch.tensor(keys)
    bank = Bank(vectors[readable], kept[readable], torch.tensor(asked), torch.tensor(answers), kept[~readable])
    if world()[0] == 0:
        with atomic_file(path) as temporary:
            save_file(vars(bank), temporary)
    return bank


def _encoded(items: Sequence[Item], embedder: MLLMEmbedder, bf16: bool, most: float) -> tuple[Tensor, Tensor]:
    """[M, D] float32 on the CPU, the processes' shares put together, and [M] bool, which of the items were readable."""
    rank, count = world()
    share, device = items[rank::count], embedder.device
    vectors, readable = torch.zeros(len(share), embedder.dimension), torch.zeros(len(share), 1, dtype=torch.bool)
    encode = partial(embedder.encode, convert_to="torch", show_progress=False)
    reasons: list[str] = []
    with tqdm(total=len(share), desc="embedding the bank", disable=None if rank == 0 else True, mininterval=1) as bar:
        for start in range(0, len(share), _BLOCK):
            block = share[start : start + _BLOCK]
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                places, found, why = encode_readable(block, encode)
            if found is not None:
                at = torch.tensor(places) + start
                vectors[at], readable[at] = found.float().cpu(), True
            reasons += why.values()
            bar.update(len(block))
    if count > 1:
        vectors, readable = (interleaved(gather_ragged(part.to(device))).cpu() for part in (vectors, readable))
    readable = readable[:, 0]
    lost = int((~readable).sum())
    if lost > most * len(items):
        first = f": {reasons[0]}" if reasons else ""
        raise DataError(
            f"{lost:,} of the {len(items):,} candidates of a bank cannot be read, more than max_unreadable {most:g} "
            f"allows{first}"
        )
    return vectors, readable


def _candidates(term: Term, row: Row, hard_negatives: int | None) -> Iterable[Item]:
    yield row.roles[term.positive[0]]
    for role in term.negatives:
        if role == "hard_negative":
            yield from row.hard_negatives[:hard_negatives]
        elif role in row.roles:
            yield row.roles[role]
        else:
            raise DataError(f"row '{row.id}' has no {role}, which a term of the loss needs")
