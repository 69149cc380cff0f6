"""What a stage's re-ranker says of the lists of its rows: asked once before the stage trains, a pair at a time.

A list is a row's positive and its hard negatives, given or mined. Judging reads a query and a candidate in one prompt,
which costs far more than the training that follows: what was judged lies in a file beside the checkpoints, is never
asked twice, and a run that was killed goes on with the pairs that are not there yet.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from mllm_embed import MLLMEmbedder, Reranker
from mllm_embed.errors import ConfigError, DataError, ImageError, ModelError, reason
from mllm_embed.files import atomic_file, check_space
from mllm_embed.inputs.pairs.prompt import RerankPrompt
from mllm_embed.saving.provenance import changes
from mllm_embed.types import Item

from ..data import TrainingRow
from ..distributed.gathering import GatheredBatch, agreed, gather_ragged, world
from ..distributed.zero import loaded_whole
from ..false_negatives.keys import ItemKeys
from ..loss.judged import lists_of
from ..recipe.config import Recipe
from ..recipe.stage_keys.judge import JudgeSection
from ..recipe.stage_keys.terms import Term
from .teacher import release_memory
from .with_search import WithSearch

JUDGED_FILE = "judged.safetensors"
BLOCK = 64  # rows that a process judges between two writes of the file: a kill costs so many
_MIX = -7046029254386353131  # 2^64 over the golden ratio, odd, as int64
_PROVENANCE = "reranker"
Question: TypeAlias = tuple[Item, list[Item]]


class Judge(Protocol):
    """What judges: `mllm_embed.Reranker`, or `WithSearch`."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What tells its scores from others'."""
        ...

    @property
    def prompt(self) -> RerankPrompt:
        """How it is asked: a query with a task that has no place there is refused."""
        ...

    def scores_of(
        self, lists: Sequence[tuple[Any, Sequence[Any]]], *, show_progress: bool | None = None
    ) -> list[list[float]]:
        """Return the scores of many queries' candidates, more is better."""
        ...


def pair_keys(queries: Tensor, candidates: Tensor) -> Tensor:
    """Return a key for each pair of a query and a candidate, by their keys; int64 all, which wrap."""
    return queries * _MIX + candidates


@dataclass(frozen=True)
class Judgements:
    """Scores of pairs.

    Args:
        pairs: [P] int64, the pairs' keys, increasing.
        scores: [P] float32, NaN for a pair that cannot be read.
    """

    pairs: Tensor
    scores: Tensor

    @classmethod
    def none(cls) -> Judgements:
        """Return judgements of nothing."""
        return cls(torch.zeros(0, dtype=torch.long), torch.zeros(0))

    def to(self, device: torch.device) -> Judgements:
        """Return them on a device."""
        return Judgements(self.pairs.to(device), self.scores.to(device))

    def of(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Return the scores of pairs by their keys [...] int64, float32; NaN for those that were not judged."""
        keys = pair_keys(queries, candidates)
        if not len(self.pairs):
            return torch.full(keys.shape, float("nan"), device=keys.device)
        at = torch.searchsorted(self.pairs, keys).clamp(max=len(self.pairs) - 1)
        return self.scores[at].masked_fill(self.pairs[at] != keys, float("nan"))

    def joined(self, pairs: Tensor, scores: Tensor) -> Judgements:
        """Return them with further pairs; of one that is there twice the first score counts."""
        every, known = torch.cat([self.pairs, pairs]), torch.cat([self.scores, scores])
        order = torch.argsort(every, stable=True)
        first = torch.ones(len(every), dtype=torch.bool)
        first[1:] = every[order][1:] != every[order][:-1]
        return Judgements(every[order][first], known[order][first])


def stage_judgements(
    recipe: Recipe,
    name: str,
    rows: Sequence[TrainingRow],
    visited: np.ndarray,
    key: ItemKeys,
    bf16: bool,
    device: torch.device,
    zero: Any | None,
    check: Callable[[], None],
) -> Judgements:
    """Return what the re-ranker of a stage says of the lists of the rows `visited` [V] int64.

    It is loaded where some pairs are not judged yet, in float32, or with `bf16` in what it was saved in, and let go of
    then. `key` gives the keys of the stage's inputs, `zero` is what transformers knows of a ZeRO-3 config, `check`
    raises where the run is to stop. Raise ModelError for a re-ranker that cannot be loaded and for a damaged file,
    ConfigError for another re-ranker than the one whose judgements are there.
    """
    stage = recipe.stages[name]
    own = stage.judge or JudgeSection()

    def load() -> Judge:
        with loaded_whole(zero):
            return _loaded(recipe, own, bf16)

    lists = Lists(rows, [term for term in stage.terms if term.judged], stage.hard_negatives, key)
    found = judge(lists, visited, load, recipe.checkpoints_of(name) / JUDGED_FILE, device, check)
    release_memory()
    _tell_lost(name, found)
    return found.to(device)


def _loaded(recipe: Recipe, own: JudgeSection, bf16: bool) -> Judge:
    how: dict[str, Any] = {"dtype": "auto" if bf16 else "float32", "quantization": recipe.quantization}
    if not own.weight:
        return Reranker.from_pretrained(own.model or recipe.model, adapter=own.adapter, **how)
    embedder = MLLMEmbedder.from_pretrained(recipe.model, adapter=own.search or recipe.adapter, **how)
    if own.model is None:
        return WithSearch(Reranker.beside(embedder, own.adapter), embedder, own.weight)
    return WithSearch(Reranker.from_pretrained(own.model, adapter=own.adapter, **how), embedder, own.weight)


def _tell_lost(name: str, found: Judgements) -> None:
    lost = int(found.scores.isnan().sum())
    if lost and lost == len(found.pairs):
        raise DataError(
            f"stage '{name}': the judge can read none of its {lost:,} pairs; look at their pictures and words"
        )
    if lost and world()[0] == 0:
        tqdm.write(f"{name}  {lost:,} of {len(found.pairs):,} pairs cannot be judged, and are left out of the lists")


def judged_lists(term: Term, gathered: GatheredBatch, judgements: Judgements) -> tuple[Tensor, Tensor]:
    """Return the lists of this process's rows and what the re-ranker says of them.

    These are [R, L] int64, numbers of vectors, the positive first, -1 for none; and [R, L] float32, NaN for what it was
    not asked and for none.
    """
    [positive], [negatives], rows = term.positives, term.hard_negatives, gathered.local_rows
    own = torch.isin(gathered.owners, rows)
    owners = torch.searchsorted(rows, gathered.owners[own])
    lists = lists_of(gathered.places[positive][rows], gathered.places[negatives][own], owners)
    of_positives, of_negatives = (gathered.keys[use.role] for use in (positive, negatives))
    places = lists_of(rows, len(of_positives) + torch.nonzero(own)[:, 0], owners)
    keys = torch.cat([of_positives, of_negatives])[places.clamp(min=0)]
    scores = judgements.of(gathered.keys[term.query[0]][rows][:, None], keys)
    return lists, scores.masked_fill(lists < 0, float("nan"))


@dataclass(frozen=True)
class Lists:
    """The lists of rows that terms have judged.

    Args:
        rows: the stage's.
        terms: with `judged`.
        hard_negatives: how many of a row's take part, the first ones; None for all.
        key: gives the keys of inputs.
    """

    rows: Sequence[TrainingRow]
    terms: Sequence[Term]
    hard_negatives: int | None
    key: ItemKeys

    def questions(self, index: int, known: Judgements) -> Iterator[tuple[Question, Tensor]]:
        """Yield what a row asks in some epoch or other, with the candidates not judged yet and the pairs' keys.

        A row that cannot be made asks nothing: it is named when its turn comes.
        """
        try:
            row = self.rows[index]
        except DataError:
            return
        for term in self.terms:
            for query in row.playing(term.query[0]):
                listed = self._list(row, term, query)
                keys = pair_keys(torch.tensor(self.key(query)), torch.tensor(list(map(self.key, listed))))
                new = ~torch.isin(keys, known.pairs)
                if new.any():
                    yield (query, [item for item, left in zip(listed, new.tolist(), strict=True) if left]), keys[new]

    def _list(self, row: TrainingRow, term: Term, query: Item) -> list[Item]:
        answers = [answer for asked, answer in row.together(term.query[0], term.positive[0]) if asked == query]
        return list(dict.fromkeys([*answers, *row.hard_negatives[: self.hard_negatives]]))


def judge(
    lists: Lists,
    visited: np.ndarray,
    load: Callable[[], Judge],
    path: Path,
    device: torch.device,
    check: Callable[[], None],
) -> Judgements:
    """Return the judgements of the lists of the rows `visited` [V] int64, on the CPU, and keep them in a file.

    Each process judges a share; arguments and errors are as of `stage_judgements`.
    """
    known, by = _read(path) if agreed(path.is_file, device) else (Judgements.none(), {})
    left, pairs = _unjudged(lists, visited, known)
    if not len(left):
        return known
    judge = load()
    _check_same(by, judge.provenance, path)
    check_space(path, 12 * (len(known.pairs) + pairs), "the re-ranker's judgements")
    rank, count = world()
    hidden = None if rank == 0 else True  # None: no bar where there is no terminal
    with tqdm(total=pairs, desc="judging", unit="pair", disable=hidden, mininterval=1) as bar:
        for start in range(0, len(left), BLOCK * count):
            check()
            block = left[start : start + BLOCK * count]
            keys, scores = _judged(lists, block[rank::count].tolist(), known, judge)
            if count > 1:
                keys, scores = (torch.cat(gather_ragged(part.to(device))).cpu() for part in (keys, scores))
            known = known.joined(keys, scores)
            if rank == 0:
                _write(path, known, judge.provenance)
            bar.update(len(keys))
    return known


def _unjudged(lists: Lists, visited: np.ndarray, known: Judgements) -> tuple[np.ndarray, int]:
    """Return the rows of which some pair is not judged yet, and how many pairs that are, counted by row."""
    left, pairs = array("q"), 0
    for index in visited.tolist():
        count = sum(len(keys) for _, keys in lists.questions(index, known))
        if count:
            left.append(index)
        pairs += count
    return np.array(left, np.int64), pairs


def _judged(lists: Lists, block: Sequence[int], known: Judgements, judge: Judge) -> tuple[Tensor, Tensor]:
    """Return the keys [P] int64 of a block's pairs and what a re-ranker says of them, [P] float32."""
    asked = [found for index in block for found in lists.questions(index, known)]
    questions = [question for question, _ in asked]
    for query, _ in questions:  # or each pair would count as one that cannot be read
        judge.prompt.task_of(query)
    scores = _scores(judge, questions)
    keys = [keys for _, keys in asked]
    empty = Judgements.none()
    return torch.cat([empty.pairs, *keys]), torch.cat([empty.scores, *map(torch.tensor, scores)])


def _scores(judge: Judge, questions: Sequence[Question]) -> list[list[float]]:
    """Return the scores of questions; where some cannot be read each pair by itself, NaN for those at fault."""
    if not questions:
        return []
    try:
        return judge.scores_of(questions, show_progress=False)
    except (ImageError, DataError):
        if len(questions) > 1:
            return [_scores(judge, [question])[0] for question in questions]
    query, candidates = questions[0]
    if len(candidates) == 1:
        return [[float("nan")]]
    return [[_scores(judge, [(query, [candidate])])[0][0] for candidate in candidates]]


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    found = list(changes(dict(before), dict(now))) if before else []
    if found:
        raise ConfigError(
            f"{path} holds judgements of another re-ranker ({'; '.join(found[:3])}): give that one, or remove the file"
        )


def _read(path: Path) -> tuple[Judgements, dict[str, Any]]:
    """Return the judgements of a file, and what made them. Raise ModelError for a damaged one."""
    try:
        with safe_open(path, "pt") as file:
            made_by = json.loads((file.metadata() or {})[_PROVENANCE])
            return Judgements(file.get_tensor("pairs"), file.get_tensor("scores")), made_by
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ModelError(f"{path} is damaged ({reason(error)}); remove it, to have the rows judged again") from error


def _write(path: Path, known: Judgements, made_by: Mapping[str, Any]) -> None:
    with atomic_file(path) as temporary:
        save_file(dict(vars(known)), temporary, metadata={_PROVENANCE: json.dumps(made_by)})
