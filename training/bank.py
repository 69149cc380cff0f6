"""SPN4CIR's static bank (arXiv 2404.11317): every target of a stage encoded once, so that queries alone train.

The candidates of each query are then all targets of the data instead of those of a batch, for half the computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mllm_embed.errors import DataError, ModelError
from mllm_embed.files import atomic_file
from mllm_embed.types import Item

from .config import Term
from .data import Row
from .examples import key_of
from .gathering import gather_ragged, interleaved, world


@dataclass(frozen=True)
class Bank:
    """Candidates of a term.

    Args:
        vectors: [M, D] float32, L2-normalised.
        inputs: [M] int64, the candidates' keys, increasing.
        asked, answers: [N] int64 each: every row's query and answer, by their keys.
    """

    vectors: Tensor
    inputs: Tensor
    asked: Tensor
    answers: Tensor

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
    term: Term, rows: Sequence[Row], encode: Callable[[list[Item]], Tensor], path: Path, hard_negatives: int | None
) -> Bank:
    """The bank of a term, read from `path` where a run made it before; otherwise each process encodes a share of it.

    Raises ModelError for a damaged file, ImageError for a candidate that cannot be read.
    """
    if path.is_file():
        try:
            return Bank(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise ModelError(f"{path} is damaged; remove {path.parent} to train the stage again") from error
    items: dict[int, Item] = {}
    asked, answers = [], []
    for row in rows:
        asked.append(key_of(row.roles[term.query[0]]))
        answers.append(key_of(row.roles[term.positive[0]]))
        for item in _candidates(term, row, hard_negatives):
            items.setdefault(key_of(item), item)
    keys = sorted(items)
    rank, count = world()
    vectors = encode([items[key] for key in keys[rank::count]])
    if count > 1:
        vectors = interleaved(gather_ragged(vectors))
    bank = Bank(vectors.cpu(), torch.tensor(keys), torch.tensor(asked), torch.tensor(answers))
    if rank == 0:
        with atomic_file(path) as temporary:
            save_file(vars(bank), temporary)
    return bank


def _candidates(term: Term, row: Row, hard_negatives: int | None) -> Iterable[Item]:
    yield row.roles[term.positive[0]]
    for role in term.negatives:
        if role == "hard_negative":
            yield from row.hard_negatives[:hard_negatives]
        elif role in row.roles:
            yield row.roles[role]
        else:
            raise DataError(f"row '{row.id}' has no {role}, which a term of the loss needs")
