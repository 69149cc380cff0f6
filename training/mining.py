"""Hard negatives from vectors: near a query, but not so near that they are probably right as well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.ranking import top_k
from mllm_embed.types import Item

from .data import Row

_BLOCK_VALUES = 1 << 22  # scores kept at a time while the gallery is searched


@dataclass(frozen=True)
class Questions:
    """What rows ask and answer, each distinct item once.

    Args:
        queries: Q items; rows that ask the same share one.
        gallery: N items; the first `answers` of them are the positive of some row.
        query, positive: [R] int64, the place of each row's own in these lists.
        answers: how many gallery items are positives.
    """

    queries: list[Item]
    gallery: list[Item]
    query: np.ndarray
    positive: np.ndarray
    answers: int

    @classmethod
    def of(cls, rows: Sequence[Row], query: str, positive: str, also: Sequence[str] = ()) -> Questions:
        """Read the roles `query` and `positive` of all rows; what plays a role of `also` can be a negative too.

        Raises DataError for a row without one of these roles.
        """
        for row in rows:
            for role in (query, positive, *also):
                if role not in row.roles:
                    raise DataError(f"row '{row.id}' has no {role}; rows like it offer {', '.join(row.roles)}")
        queries, asks = _distinct([row.roles[query] for row in rows])
        gallery, finds = _distinct([row.roles[positive] for row in rows])
        known = {item.key for item in gallery}
        more, _ = _distinct([row.roles[role] for role in also for row in rows])
        gallery_all = gallery + [item for item in more if item.key not in known]
        return cls(queries, gallery_all, asks, finds, len(gallery))

    def right(self) -> list[set[int]]:
        """For each query the gallery places that cannot be wrong: the positives of all its rows, and the query."""
        place = {item.key: number for number, item in enumerate(self.gallery)}
        found: list[set[int]] = [{place[item.key]} if item.key in place else set() for item in self.queries]
        for query, positive in zip(self.query.tolist(), self.positive.tolist(), strict=True):
            found[query].add(positive)
        return found


@dataclass(frozen=True)
class Rules:
    """Which candidates count as negatives.

    Args:
        count: at most so many for a query.
        skip: the best so many candidates are passed over.
        ceiling: a candidate above `ceiling` times the similarity of the positive is taken for a false negative
            (NV-Retriever's rule).
        at_most: a candidate above this similarity is one too; None sets no such limit.
        depth: how many candidates are looked at.
    """

    count: int = 5
    skip: int = 0
    ceiling: float = 0.95
    at_most: float | None = None
    depth: int = 200

    def check(self, gallery: int) -> None:
        """Raises ConfigError for a rule that makes no sense, or asks for more than the gallery has."""
        if self.count < 1:
            raise ConfigError(f"--count must be at least 1, not {self.count}")
        if self.skip < 0:
            raise ConfigError(f"--skip must be 0 or more, not {self.skip}")
        if not 0 < self.ceiling <= 1:
            raise ConfigError(f"--ceiling is a share of the positive's similarity, above 0 and up to 1: {self.ceiling}")
        if self.at_most is not None and not -1 < self.at_most <= 1:
            raise ConfigError(f"--at-most is a cosine, above -1 and up to 1, not {self.at_most}")
        if self.count + self.skip > self.depth:
            raise ConfigError(
                f"--depth {self.depth} must be at least --skip and --count together, {self.skip + self.count}"
            )
        if self.count + self.skip >= gallery:
            raise ConfigError(
                f"--skip {self.skip} and --count {self.count} ask for more than the {gallery} distinct candidates, "
                "of which one is the positive; lower them"
            )


@dataclass(frozen=True)
class Negatives:
    """What was found for Q queries.

    Args:
        places: [Q, count] int64 places in the gallery, the hardest first, -1 where there are no more.
        similarity: [Q, count] float32 cosines, -inf where there are no more.
        above: [Q] int64, how many candidates the ceiling took out before `count` were found.
        positive: [Q] float32, the mean cosine of the query and its positives.
    """

    places: np.ndarray
    similarity: np.ndarray
    above: np.ndarray
    positive: np.ndarray


def searched(
    queries: np.ndarray, gallery: np.ndarray, right: Sequence[set[int]], depth: int, progress: bool | None = None
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Exact `ranking.top_k` of `depth`, without what is right, a block of queries at a time.

    Yields which queries, their scores [q, depth] float32 and places [q, depth] int64, -inf and -1 past the end.
    """
    depth = min(depth, len(gallery))
    step = max(1, _BLOCK_VALUES // depth)
    hide = None if progress is None else not progress
    with tqdm(total=len(queries), desc="searching", unit="query", disable=hide, mininterval=1) as bar:
        for start in range(0, len(queries), step):
            part = slice(start, min(start + step, len(queries)))
            yield part, *top_k(queries[part], gallery, depth, right[part])
            bar.update(part.stop - start)


def choose(scores: np.ndarray, places: np.ndarray, positive: np.ndarray, rules: Rules) -> Negatives:
    """Apply `rules` to what a search found.

    Args:
        scores, places: [Q, K] as `searched` gives them, the best first, without what is right.
        positive: [Q] float32, the similarity that a query's right answers have.
        rules: a checked set.
    """
    limit = rules.ceiling * positive
    if rules.at_most is not None:
        limit = np.minimum(limit, rules.at_most)
    there = (places >= 0) & (np.arange(places.shape[1]) >= rules.skip)
    above = there & (scores > limit[:, None])
    kept = there & ~above
    # the kept ones are the last of a descending list: all that is above stands before them
    order = np.argsort(~kept, axis=1, kind="stable")[:, : rules.count]
    lost = ~np.take_along_axis(kept, order, axis=1)
    found, similarity = np.take_along_axis(places, order, axis=1), np.take_along_axis(scores, order, axis=1)
    found[lost], similarity[lost] = -1, -np.inf
    short = max(0, rules.count - found.shape[1])
    return Negatives(
        np.pad(found, ((0, 0), (0, short)), constant_values=-1),
        np.pad(similarity, ((0, 0), (0, short)), constant_values=-np.inf),
        above.sum(axis=1),
        positive,
    )


def positive_similarity(queries: np.ndarray, gallery: np.ndarray, questions: Questions) -> np.ndarray:
    """[Q] float32: the mean cosine of each query and the positives of its rows."""
    total, rows = np.zeros(len(queries)), np.bincount(questions.query, minlength=len(queries))
    step = max(1, _BLOCK_VALUES // queries.shape[1])
    for start in range(0, len(questions.query), step):
        query, positive = questions.query[start : start + step], questions.positive[start : start + step]
        total += np.bincount(query, np.einsum("ij,ij->i", queries[query], gallery[positive]), len(queries))
    return (total / np.maximum(rows, 1)).astype(np.float32)


def _distinct(items: Sequence[Item]) -> tuple[list[Item], np.ndarray]:
    """The distinct items in order of appearance, and the place of each given one."""
    place: dict[object, int] = {}
    found: list[Item] = []
    places = np.empty(len(items), np.int64)
    for number, item in enumerate(items):
        at = place.setdefault(item.key, len(found))
        if at == len(found):
            found.append(item)
        places[number] = at
    return found, places
