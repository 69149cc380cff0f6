"""The steps of mining: the rows of a data folder, the vectors of what they ask and answer, a search, a mined file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mllm_embed import DataFolder, MLLMEmbedder
from mllm_embed.errors import DataError, ImageError
from mllm_embed.inputs.images import content_key
from mllm_embed.saving.provenance import VECTOR_FIELDS
from mllm_embed.saving.versions import versions

from ..data import TrainingRow
from ..data.folder import read_rows
from ..recipe.sides import Sides
from .clusters import Clustering, Graph, partition
from .mined_file import write_mined_file, written_item
from .negatives import Negatives, Rules, choose, positive_similarity, search_blocks, without_duplicates
from .questions import Questions
from .vector_cache import VectorCache

# What asks and what is found where nobody says: the first role that all rows have. In the order in which kinds of rows
# are looked for in a folder.
DEFAULT_QUERY = {"triplets": ("composed",), "pairs": ("image",), "texts": ("composed_text", "source_text")}
DEFAULT_POSITIVE = {"triplets": ("target_image", "target_text"), "pairs": ("caption",), "texts": ("target_text",)}


@dataclass(frozen=True)
class MiningData:
    """The rows of a data folder, and the roles in which they are mined.

    Args:
        folder: the data folder.
        rows: all of its rows of `kind`.
        kind: "pairs", "triplets" or "texts".
        query, positive: the roles of what asks and what is found.
        also: roles of further candidates.
        tasks: of queries and of what is found, None for those of the model's prompts.
    """

    folder: DataFolder
    rows: list[TrainingRow]
    kind: str
    query: str
    positive: str
    also: list[str]
    tasks: tuple[str | None, str | None] = (None, None)

    @classmethod
    def open(
        cls,
        path: Path,
        kind: str | None = None,
        query: str | None = None,
        positive: str | None = None,
        also: Sequence[str] = (),
        tasks: tuple[str | None, str | None] = (None, None),
    ) -> MiningData:
        """Read the folder at `path`; what is None is the first that it has. Its rows stand on the sides of a search, as
        in training.

        Raises DataError for a folder without such rows, and where no default role fits all of them.
        """
        folder = DataFolder.open(path)
        kind = kind or next((known for known in DEFAULT_QUERY if getattr(folder, known)), "triplets")
        rows = read_rows(folder, path, kind, [])
        query = query or _default("--query", DEFAULT_QUERY[kind], rows)
        positive = positive or _default("--positive", DEFAULT_POSITIVE[kind], rows)
        sides = Sides(frozenset({query} - {positive, *also}), *tasks)
        return cls(folder, list(map(sides.put, rows)), kind, query, positive, list(also), tasks)

    def questions(self) -> Questions:
        """Return what the rows ask and answer. Raises DataError for a row without one of the roles."""
        return Questions.of(self.rows, self.query, self.positive, self.also)

    def provenance(self, embedder: MLLMEmbedder) -> dict[str, Any]:
        """Return, as plain JSON, what tells vectors of these questions by `embedder` from any others."""
        roles = {"rows": self.kind, "query": self.query, "positive": self.positive, "also": self.also}
        named = dict(zip(("query_task", "document_task"), self.tasks, strict=True))
        given = {name: task for name, task in named.items() if task is not None}
        made_by = embedder.provenance
        model = {key: made_by[key] for key in VECTOR_FIELDS}
        return {"data": self.folder.fingerprint(), "pictures": self._pictures(), **roles, **given, "model": model}

    def _pictures(self) -> str:
        """Return the sha256 over what the pictures hold: the folder's fingerprint is of its files of rows alone."""
        roles = (self.query, self.positive, *self.also)
        items = (row.roles[role] for row in self.rows for role in roles if role in row.roles)
        digest = hashlib.sha256()
        for image in dict.fromkeys(chain.from_iterable(item.images for item in items)):
            try:
                digest.update(content_key(image).encode())
            except ImageError:
                digest.update(b"unreadable")
        return digest.hexdigest()


def _default(option: str, roles: Sequence[str], rows: Sequence[TrainingRow]) -> str:
    for role in roles:
        if all(role in row.roles for row in rows):
            return role
    raise DataError(f"not every row has {' or '.join(roles)}: say with {option} what to take")


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
    """The negatives, the rules that chose them, and `clusters` [R] int64, the cluster of every row, if asked for."""

    negatives: Negatives
    clusters: np.ndarray | None
    rules: Rules
    clustering: Clustering | None


def mine(
    questions: Questions, vectors: QuestionVectors, rules: Rules, clustering: Clustering | None = None
) -> MiningResult:
    """Search the gallery for the negatives of every query, and cluster the rows where `clustering` says how."""
    queries, gallery = vectors.queries, vectors.gallery
    gone = list(vectors.unreadable_gallery)
    # a row whose query or positive cannot be read gets no negatives
    silent = {*vectors.unreadable_queries, *questions.query[np.isin(questions.positive, gone)].tolist()}
    own = positive_similarity(queries, gallery, questions)
    graph = Graph(questions.query, questions.positive, clustering.skip) if clustering else None
    parts, right = [], questions.right()
    for part, scores, places in search_blocks(queries, gallery, right, rules.depth):
        places[np.isin(places, gone) | np.isin(np.arange(part.start, part.stop), list(silent))[:, None]] = -1
        clean = without_duplicates(queries[part], gallery, scores, places, right[part])
        parts.append(choose(scores, clean, own[part], rules))
        if graph:
            graph.add(part.start, places, questions.answers)
    clusters = None
    if graph and clustering:
        clusters = partition(*graph.mutual(), len(questions.query), clustering.size)
    return MiningResult(Negatives.joined(parts), clusters, rules, clustering)


def write_mined(
    path: Path, header: Mapping[str, Any], data: MiningData, questions: Questions, mined: MiningResult
) -> None:
    """Write the mined file of the rows; `header` says what made the vectors. Raises DataError where the disk fails."""
    rules: dict[str, Any] = {**asdict(mined.rules), "clusters": None}
    if mined.clustering:
        rules |= {"clusters": mined.clustering.size, "cluster_skip": mined.clustering.skip}
    lines = _lines(data, questions, mined)
    write_mined_file(path, {**header, "rules": rules, "versions": versions()}, lines)


def _lines(data: MiningData, questions: Questions, mined: MiningResult) -> Iterator[dict[str, Any]]:
    """Yield what is written of each row."""
    negatives = mined.negatives
    for number, row in enumerate(data.rows):
        query = questions.query[number]
        places = [place for place in negatives.places[query].tolist() if place >= 0]
        similarity = negatives.similarity[query, : len(places)]
        line: dict[str, Any] = {
            "id": row.id,
            "negatives": [written_item(questions.gallery[place], data.folder.root) for place in places],
            "similarity": [round(float(value), 4) for value in similarity],
        }
        if mined.clusters is not None:
            line["cluster"] = int(mined.clusters[number])
        yield line
