"""A guide: an embedder of its own that says which candidates are probably right, as GIST does (arXiv 2402.16829).

A candidate that the guide finds nearer to the query than the row's own positive is neither right nor wrong: it is left
out. Its vectors are made once, before a stage, and lie on disk; nothing of it is in memory while the stage trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from mllm_embed.errors import ModelError, reason

KEYS = ".keys.npy"
"""Ending of the file with a part's keys, beside that with its vectors."""
# Cosines of one pair of vectors, computed in other orders, differ by less: a candidate that is equal is not nearer.
ROUNDING = 2e-6
_Array = TypeVar("_Array", Tensor, np.ndarray)


@dataclass(frozen=True)
class GuideRule:
    """How near a candidate may come before it counts as a right answer.

    Args:
        margin: so much nearer than the positive (below 0: so much less near).
        ceiling: in its place, a share of the positive's cosine (NV-Retriever's rule); where that is negative, the limit
            lies as far below it.
    """

    margin: float = 0.0
    ceiling: float | None = None

    def limit(self, positive: _Array) -> _Array:
        """Return the cosines [B] above which a candidate is left out, of those of the positives [B]."""
        if self.ceiling is None:
            return positive + (self.margin + ROUNDING)
        return positive - (1 - self.ceiling) * abs(positive) + ROUNDING


class Guided(NamedTuple):
    """What a guide says of a batch: a candidate is left out where its cosine to the query lies above the limit.

    A vector that is NaN says nothing: a comparison with it is never true.

    Args:
        queries: [B, D] float, L2-normalised, the guide's.
        candidates: [M, D] float, L2-normalised.
        limit: [B] float32, as `GuideRule.limit` gives it.
    """

    queries: Tensor
    candidates: Tensor
    limit: Tensor

    @classmethod
    def of(cls, queries: Tensor, candidates: Tensor, positives: Tensor, rule: GuideRule) -> Guided:
        """Return it for queries whose positives have the vectors [B, D]."""
        return cls(queries, candidates, rule.limit((queries.float() * positives.float()).sum(1)))

    def nearer(self, rows: slice, columns: slice) -> Tensor:
        """Return [R, C] bool of a tile, true for a candidate that is to be left out."""
        return self.queries[rows].float() @ self.candidates[columns].float().T > self.limit[rows, None]


def without_nearer(
    queries: np.ndarray, gallery: np.ndarray, places: np.ndarray, positive: np.ndarray, rule: GuideRule
) -> np.ndarray:
    """Return `places` [Q, K] int64 with -1 for candidates that a guide finds nearer than its limit.

    Args:
        queries: [Q, D] float, L2-normalised, the guide's.
        gallery: [N, D] float, L2-normalised, the guide's; read where a place is named alone.
        places: [Q, K] int64 of candidates in the gallery, -1 for none.
        positive: [Q] float32, the guide's cosine of each query and what is right for it.
        rule: its limit.
    """
    limit, found = rule.limit(positive), places.copy()
    for row, named in enumerate(places):
        near = gallery[named].astype(np.float32) @ queries[row].astype(np.float32) > limit[row]
        found[row, near & (named >= 0)] = -1
    return found


class GuideVectors:
    """A guide's vectors by the keys of inputs: memory maps of the parts of a folder, which every process reads."""

    def __init__(self, folder: Path, names: tuple[str, ...]):
        """Name the parts: NAME.npy with vectors [n, D] float16, NAME.keys.npy with their keys [n] int64."""
        self.folder, self.names = folder, names

    def __reduce__(self) -> tuple[Any, ...]:
        return GuideVectors, (self.folder, self.names)  # a worker maps the files itself

    @cached_property
    def _parts(self) -> list[np.ndarray]:
        return [_mapped(self.folder / f"{name}.npy") for name in self.names]

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys [M] int64, increasing; the part of each, and its row there, [M] int32."""
        keys = [np.array(_mapped(self.folder / f"{name}{KEYS}")) for name in self.names]
        lengths = [len(part) for part in keys]
        every = np.concatenate([*keys, np.empty(0, np.int64)])
        part = np.repeat(np.arange(len(keys), dtype=np.int32), lengths)
        row = np.concatenate([np.arange(length, dtype=np.int32) for length in (*lengths, 0)])
        order = np.argsort(every, kind="stable")
        return every[order], part[order], row[order]

    def __len__(self) -> int:
        return len(self._index[0])

    @property
    def dimension(self) -> int:
        """The length of its vectors."""
        return int(self._parts[0].shape[1])

    def take(self, keys: np.ndarray) -> np.ndarray:
        """Return the vectors [n, D] float16 of inputs by their keys [n] int64; NaN for one that the guide has none of.

        Raise ModelError for a damaged file.
        """
        known, part, row = self._index
        found = np.full((len(keys), self.dimension), np.nan, np.float16)
        place = np.minimum(np.searchsorted(known, keys), max(0, len(known) - 1))
        there = np.flatnonzero(known[place] == keys)
        for number in np.unique(part[place[there]]):
            own = there[part[place[there]] == number]
            found[own] = self._parts[number][row[place[own]]]
        return found


def _mapped(path: Path) -> np.ndarray:
    try:
        mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({reason(error)}); remove {path.parent} to make it again") from error
    return mapped
