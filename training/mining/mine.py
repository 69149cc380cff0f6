"""The steps of mining: the vectors of what rows ask and answer, a search among them, a mined file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mllm_embed import MLLMEmbedder
from mllm_embed.saving.provenance import VECTOR_FIELDS, facts
from mllm_embed.saving.versions import versions

from .chance import Chance, chance_of
from .clusters import Clustering, Graph, partition
from .guided import MiningGuide
from .mined_file import write_mined_file, written_item
from .negatives import (
    Negatives,
    Rules,
    choose,
    joined_by_similarity,
    positive_similarity,
    search_blocks,
    without_duplicates,
)
from .questions import Questions
from .rows import RowsToMine
from .vector_cache import VectorCache

_KEPT_NAMES = 1 << 16  # of negatives


def vectors_made_by(questions: Questions, embedder: MLLMEmbedder) -> dict[str, Any]:
    """Return, as plain JSON, what tells vectors of these questions by `embedder` from any others."""
    made_by = embedder.provenance
    return {"inputs": questions.digest, "model": facts(made_by, VECTOR_FIELDS)}


@dataclass(frozen=True)
class QuestionVectors:
    """The vectors of questions.

    Args:
        queries, gallery: [Q, D] and [N, D] float32 of unit length, 0 where an input could not be read.
        unreadable_queries, unreadable_gallery: place -> why it could not be read.
    """

    queries: np.ndarray
    gallery: np.ndarray
    unreadable_queries: Mapping[int, str]
    unreadable_gallery: Mapping[int, str]


def embed_questions(
    questions: Questions, embedder: MLLMEmbedder, cache: VectorCache, batch_size: int
) -> QuestionVectors:
    """Return the vectors of `questions`, those that `cache` has from an earlier run and new ones. Raises as it does."""
    queries = cache.encode("queries", questions.queries, embedder, batch_size)
    gallery = cache.encode("gallery", questions.gallery, embedder, batch_size)
    return QuestionVectors(queries, gallery, cache.unreadable["queries"], cache.unreadable["gallery"])


@dataclass(frozen=True)
class MiningResult:
    """The negatives, the rules that chose them, and what was asked for besides.

    Args:
        clusters: [R] int64, the cluster of every row.
        chance: how the clusters compare with chance.
        guided: [Q] int64, how many of the candidates that were looked at the guide left out.
        siblings: [Q] int64, how many siblings were taken as such, where the rules ask for them.
    """

    negatives: Negatives
    rules: Rules
    clusters: np.ndarray | None = None
    clustering: Clustering | None = None
    chance: Chance | None = None
    guided: np.ndarray | None = None
    siblings: np.ndarray | None = None


def mine(
    questions: Questions,
    vectors: QuestionVectors,
    rules: Rules,
    clustering: Clustering | None = None,
    guide: MiningGuide | None = None,
    progress: bool | None = None,
) -> MiningResult:
    """Search the gallery for the negatives of every query, and cluster the rows where `clustering` says how.

    What a `guide` finds too near is neither a negative nor a reason for two rows to share a cluster. A bar is shown on
    a terminal, unless `progress` says otherwise.
    """
    chooser = _Chooser(questions, vectors, rules, guide)
    graph = Graph(questions.query, questions.positive, clustering.skip) if clustering else None
    parts, guided, siblings = [], [], []
    blocks = search_blocks(vectors.queries, vectors.gallery, questions.right, rules.depth, progress)
    for part, scores, found in blocks:
        places, left_out = chooser.allowed(part, found)
        own, taken = chooser.with_siblings(part, chooser.chosen(part, scores, places, rules))
        parts.append(own)
        guided.append(left_out)
        siblings.append(taken)
        if graph:
            graph.add(part.start, places, questions.answers)
    result = MiningResult(
        Negatives.joined(parts), rules, guided=np.concatenate(guided) if guide else None,
        siblings=np.concatenate(siblings) if rules.siblings else None,
    )  # fmt: skip
    if not (graph and clustering):
        return result
    edges = graph.mutual()
    clusters = partition(*edges, len(questions.query), clustering.size)
    chance = chance_of(*edges, clusters, clustering.size)
    return replace(result, clusters=clusters, clustering=clustering, chance=chance)


class _Chooser:
    """Chooses among candidates of queries, by rules, and by a guide where there is one."""

    def __init__(self, questions: Questions, vectors: QuestionVectors, rules: Rules, guide: MiningGuide | None):
        self.questions, self.vectors, self.rules, self.guide = questions, vectors, rules, guide
        self.positive = positive_similarity(vectors.queries, vectors.gallery, questions)
        self.gone = list(vectors.unreadable_gallery)
        # a row whose query or positive cannot be read gets no negatives
        lost = questions.query[np.isin(questions.positive, self.gone)]
        self.silent = [*vectors.unreadable_queries, *lost.tolist()]

    def allowed(self, part: slice, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return places [q, K] of a part with -1 for what cannot be read or the guide finds too near; and of how many
        of each query the guide said so, [q]."""
        lost = np.isin(places, self.gone) | np.isin(np.arange(part.start, part.stop), self.silent)[:, None]
        there = np.where(lost, -1, places)
        left = self.guide.left(part, there) if self.guide else there
        return left, (left != there).sum(axis=1)

    def chosen(self, part: slice, scores: np.ndarray, places: np.ndarray, rules: Rules) -> Negatives:
        """Return what `choose` does, without duplicates."""
        queries, right = self.vectors.queries[part], self.questions.right(part)
        clean = without_duplicates(queries, self.vectors.gallery, scores, places, right)
        return choose(scores, clean, self.positive[part], rules)

    def with_siblings(self, part: slice, mined: Negatives) -> tuple[Negatives, np.ndarray]:
        """Return what was mined with as many siblings as the rules ask for, and how many each query has, [q]."""
        if not self.rules.siblings:
            return mined, np.zeros(len(mined.places), np.int64)
        queries, gallery, right = self.vectors.queries, self.vectors.gallery, self.questions.right(part)
        scores, found = self.questions.siblings.nearest(part, queries, gallery, right, self.rules.depth)
        places, _ = self.allowed(part, found)
        first = self.chosen(part, scores, places, replace(self.rules, count=self.rules.siblings, skip=0))
        return joined_by_similarity(first, mined, self.rules.count), (first.places >= 0).sum(axis=1)


def write_mined(
    path: Path, header: Mapping[str, Any], data: RowsToMine, questions: Questions, mined: MiningResult
) -> None:
    """Write the mined file of the rows; `header` says what made the vectors. Raises DataError where the disk fails."""
    rules: dict[str, Any] = {**asdict(mined.rules), "clusters": None}
    if math.isinf(mined.rules.ceiling):
        rules["ceiling"] = None  # JSON has no infinity
    if mined.clustering:
        rules |= {"clusters": mined.clustering.size, "cluster_skip": mined.clustering.skip}
    chance = {"chance": asdict(mined.chance) | {"better": mined.chance.better}} if mined.chance else {}
    left_out = {"left_out": questions.unmade.count} if questions.unmade.count else {}
    told = {**data.described(), **left_out, **chance, **header, "rules": rules, "versions": versions()}
    write_mined_file(path, told, _lines(data, questions, mined))


def _lines(data: RowsToMine, questions: Questions, mined: MiningResult) -> Iterator[dict[str, Any]]:
    """Yield what is written of each row."""
    negatives, named = mined.negatives, _Named(data, questions)
    for number, index in enumerate(questions.rows.tolist()):
        query = questions.query[number]
        places = [place for place in negatives.places[query].tolist() if place >= 0]
        similarity = negatives.similarity[query, : len(places)]
        part, record = data.place(index)
        line: dict[str, Any] = {
            "source": part,
            "row": record,
            "id": data[index].id,
            "negatives": [named(place, part) for place in places],
            "similarity": [round(float(value), 4) for value in similarity],
        }
        if mined.clusters is not None:
            line["cluster"] = int(mined.clusters[number])
        yield line


class _Named:
    """The names of gallery items in a mined file; those of the last ones are kept, since many rows share them."""

    def __init__(self, data: RowsToMine, questions: Questions):
        self.data, self.questions = data, questions
        self._entry = lru_cache(maxsize=_KEPT_NAMES)(self._made)

    def __call__(self, place: int, part: int) -> dict[str, Any]:
        """Return the entry of a gallery place in a line of source `part`."""
        source, entry = self._entry(place)
        return entry if source == part or entry.keys() == {"text"} else {**entry, "source": source}

    def _made(self, place: int) -> tuple[int, dict[str, Any]]:
        index, role = self.questions.gallery.place(place)
        source, record = self.data.place(index)
        # as its source has it: training puts it on its side, with a task, once more
        return source, written_item(self.data.mixed[index].roles[role], self.data.mixed.parts[source], record, role)
