"""Pairs of pictures, found in stores of vectors by a rule: the same stores, rule and seed give the same pairs."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mllm_embed.errors import DataError
from mllm_embed.store.exact import Answer, named
from mllm_embed.store.gallery import StoreGallery
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.vectors.ranking import top_k

from .rules import CAPTION, PICTURE, PairRule, Window

PASSED_OVER = {
    "duplicate": "nearly the same picture",
    "direction": "a pair already, the other way round",
    "captions": "captions too near or too far from one another",
    "target": "a target of as many references as --per-target allows",
}
_BLOCK_ANSWERS = 1 << 18  # answers in memory at a time
_BLOCK_QUERIES = 512
_SAME = 1 - 1e-6  # cosine of vectors that differ by rounding


@dataclass(frozen=True)
class Pair:
    """Two pictures by their ids.

    Args:
        reference, target: where the instruction starts, and where it leads.
        by: the similarity that found the target.
        cosine: by that similarity.
        negatives: what else was found for the reference, the nearest first.
    """

    reference: str
    target: str
    by: str
    cosine: float
    negatives: tuple[str, ...] = ()


class Found(NamedTuple):
    """What one similarity finds for a reference: ids and their cosines, by rank."""

    by: str
    answers: Sequence[tuple[str, float]]


class PairFinder:
    """The pairs of the pictures in stores, in the order of their rows.

    Args:
        stores: similarity -> a store, searched exactly or by an index, whose rows have the pictures' ids; that of
            `rules.PICTURE` says which pictures there are and in which order.
        rule: a checked one.
        groups: id -> group, for a rule that asks for one.
        seed: of what is taken at random.
        both_directions: whether two pictures may be a pair twice, each once the reference.

    `passed_over` counts what was looked at and is no pair, by the keys of `PASSED_OVER`; `nearest` holds the cosines
    of the first and the last that was looked at, by similarity. Both grow as pairs are read.

    Raises DataError for a store that holds none of the pictures.
    """

    def __init__(
        self,
        stores: Mapping[str, StoreGallery],
        rule: PairRule,
        groups: Mapping[str, str] | None = None,
        seed: int = 0,
        both_directions: bool = False,
    ):
        self.rule, self.seed, self.both = rule, seed, both_directions
        self._stores = stores
        self.ids = [name for name in stores[PICTURE].store.ids if name in stores[PICTURE].store.living]
        self.passed_over: Counter[str] = Counter()
        self.nearest: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._common = {name: self._shared(name) for name in stores}
        self._groups = self._members(groups) if rule.grouped else [self.ids]
        self._made: set[tuple[str, str]] = set()
        self._targets: Counter[str] = Counter()
        self._vector = lru_cache(1 << 12)(self._read)

    @property
    def by(self) -> list[str]:
        """The similarities that propose pairs: those of the rule of which there is a store."""
        return [name for name in self.rule.by if name in self._stores]

    def __iter__(self) -> Iterator[Pair]:
        """Yield the pairs, each once."""
        with tqdm(total=len(self.ids), desc="pairing", unit="picture", disable=None, mininterval=1) as bar:
            for members in self._groups:
                for reference, found in self._found(members):
                    yield from self._pairs_of(reference, found)
                    bar.update()

    @property
    def grouped(self) -> int:
        """How many groups there are with pairs in them."""
        return len(self._groups)

    def cosines(self) -> list[str]:
        """Return, a line for each similarity, at which cosines the pictures lie that were looked at."""
        lines = []
        for by, ends in self.nearest.items():
            first, last = np.quantile(np.array(ends), (0.05, 0.95), axis=0).T
            lines.append(
                f"by {by}: the nearest that was looked at has cosine {first[0]:.2f} to {first[1]:.2f}, the farthest "
                f"{last[0]:.2f} to {last[1]:.2f} (5 to 95 % of {len(ends):,} pictures)"
            )
        return lines

    def _shared(self, name: str) -> list[str] | None:
        """Return which pictures a store may answer with; None for all of its rows."""
        living = self._stores[name].store.living
        shared = [picture for picture in self.ids if picture in living]
        if not shared:
            raise DataError(
                f"{self._stores[name].store.folder} holds none of the {len(self.ids):,} pictures by the ids that they "
                "have in the first store; embed the same sources"
            )
        return None if len(shared) == len(living) else shared

    def _members(self, groups: Mapping[str, str] | None) -> list[list[str]]:
        """Return the pictures of each group of two or more, in the order of the first of each."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.ids:
            if groups and name in groups:
                found[groups[name]].append(name)
        return [members for members in found.values() if len(members) > 1]

    def _found(self, members: list[str]) -> Iterator[tuple[str, list[Found]]]:
        """Yield each picture of a group with what each similarity finds for it in the group."""
        first, last = self.rule.window(len(members) - 1) if len(members) > 1 else (1, 0)
        step = max(1, min(_BLOCK_QUERIES, _BLOCK_ANSWERS // max(1, last)))
        for start in range(0, len(members) if last else 0, step):
            block = members[start : start + step]
            found: dict[str, list[Found]] = {name: [] for name in block}
            for by in self.by:
                for name, answers in self._nearest(by, block, members, last):
                    found[name].append(Found(by, answers[first - 1 :]))
            yield from found.items()

    def _nearest(self, by: str, block: list[str], members: list[str], k: int) -> Iterator[tuple[str, Answer]]:
        """Yield those of a block that a store holds, each with its k nearest, the nearest first."""
        gallery = self._stores[by]
        asking = [name for name in block if name in gallery.store.living]
        if len(members) < len(self.ids):
            yield from self._nearest_in_group(gallery.store, asking, members, k)
        elif asking:
            vectors = gallery.store.take(gallery.store.positions(asking))
            answers = gallery.nearest(vectors, k, allow=self._common[by], exclude=[[name] for name in asking])
            yield from zip(asking, answers, strict=True)

    def _nearest_in_group(
        self, store: VectorStore, asking: list[str], members: list[str], k: int
    ) -> Iterator[tuple[str, Answer]]:
        """Yield the same of a group, whose vectors alone are read: there may be a hundred thousand groups."""
        there = [name for name in members if name in store.living]
        if len(there) < 2:
            return
        vectors = store.take(store.positions(there))
        place = {name: at for at, name in enumerate(there)}
        own = [place[name] for name in asking]
        scores, rows = top_k(vectors[own], vectors, k, [[at] for at in own])
        yield from zip(asking, named(there, scores, rows), strict=True)

    def _pairs_of(self, reference: str, found: list[Found]) -> Iterator[Pair]:
        """Yield the pairs of a reference: of each similarity as many as the rule asks for."""
        fitting = [Found(by, self._within(by, answers)) for by, answers in found]
        for by, answers in fitting:
            made = 0
            for target, cosine in self._ordered(by, reference, answers):
                if made == self.rule.pairs:
                    break
                if (reference, target) in self._made:  # by another similarity
                    continue
                reason = self._no_pair(reference, target)
                if reason:
                    self.passed_over[reason] += 1
                    continue
                made += 1
                self._made.add((reference, target))
                self._targets[target] += 1
                yield Pair(reference, target, by, cosine, self._negatives(reference, target, by, found))

    def _within(self, by: str, answers: Sequence[tuple[str, float]]) -> Sequence[tuple[str, float]]:
        if answers:
            self.nearest[by].append((answers[0][1], answers[-1][1]))
        return [(name, cosine) for name, cosine in answers if _inside(cosine, self.rule.cosines)]

    def _ordered(
        self, by: str, reference: str, answers: Sequence[tuple[str, float]]
    ) -> Iterator[tuple[str, float]] | Sequence[tuple[str, float]]:
        """Return what was found in the order in which it is taken; at random it depends on seed and reference alone."""
        if self.rule.choice == "nearest":
            return answers
        digest = hashlib.sha256(f"{self.seed} {by} {reference}".encode()).digest()
        order = np.random.default_rng(int.from_bytes(digest[:8], "big")).permutation(len(answers))
        return (answers[place] for place in order.tolist())

    def _no_pair(self, reference: str, target: str) -> str | None:
        """Return why two pictures are no pair, None where they are one."""
        if not self.both and (target, reference) in self._made:
            return "direction"
        if self.rule.per_target is not None and self._targets[target] >= self.rule.per_target:
            return "target"
        if self._same(reference, target):
            return "duplicate"
        window = self.rule.caption_cosines
        if window and not self._captions_fit(reference, target, window):
            return "captions"
        return None

    def _same(self, one: str, other: str) -> bool:
        return self._cosine(PICTURE, one, other) >= min(self.rule.duplicate, _SAME)

    def _captions_fit(self, one: str, other: str, window: Window) -> bool:
        """Return whether the captions' cosine lies within a window; True where one of them has none."""
        there = self._stores[CAPTION].store.living if CAPTION in self._stores else ()
        if one not in there or other not in there:
            return True
        return _inside(self._cosine(CAPTION, one, other), window)

    def _negatives(self, reference: str, target: str, by: str, found: list[Found]) -> tuple[str, ...]:
        """Return what else was looked at for the reference, also at lower cosines than a pair has: the nearest first,
        and first by the similarity that found the target. What is nearly one of the two is none."""
        chosen: list[str] = []
        for _, answers in sorted(found, key=lambda some: some.by != by):
            for name, _ in answers:
                if len(chosen) == self.rule.negatives:
                    return tuple(chosen)
                if name == target or name in chosen or self._same(name, target) or self._same(name, reference):
                    continue
                chosen.append(name)
        return tuple(chosen)

    def _cosine(self, by: str, one: str, other: str) -> float:
        return float(np.dot(self._vector(by, one).astype(np.float64), self._vector(by, other)))

    def _read(self, by: str, name: str) -> np.ndarray:
        store = self._stores[by].store
        return store.take(store.positions([name]))[0]


def _inside(cosine: float, window: Window) -> bool:
    return window[0] < cosine < window[1]
