"""What is right for each query of a stage, known from all of its rows before the first step.

A batch shows a few rows. That an answer of one is right for the query of another, too, stands elsewhere in the data:
two people remarked the same of one picture, a caption fits two. Here lie the pairs of all rows, as numbers.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Protocol

import numpy as np
from tqdm import tqdm

from mllm_embed.errors import DataError, ImageError
from mllm_embed.types import Item

from ..data import TrainingRow
from ..data.roles import ANSWERS
from ..recipe.stage_keys.terms import Term
from .twins import ALONE, Sharing

ASKED, RIGHT = "asked", "right"
"""Names, beside those of roles, of the keys by which a row itself tells what asks and what is right for it."""
_BAR_ROWS = 50_000  # from which on looking at all of them takes long enough to show it
Key = Callable[[Item], int]


class _Rows(Protocol):
    """Rows by number; one that cannot be made raises DataError."""

    def __getitem__(self, index: int, /) -> TrainingRow: ...


@dataclass(frozen=True)
class KnownAnswers:
    """Pairs of an input that asks and one that is right for it, each once.

    Args:
        asked: [P] int64, increasing, the key of what asks.
        answers: [P] int64, the key of what is right for it.
        several: how many queries have more than one right answer of one form.
    """

    asked: np.ndarray
    answers: np.ndarray
    several: int = 0

    def of(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs of what asks with these keys [Q] int64: [p] keys that ask, [p] keys that are right."""
        distinct = np.unique(keys)
        starts = np.searchsorted(self.asked, distinct)
        counts = np.searchsorted(self.asked, distinct, side="right") - starts
        places = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return self.asked[places], self.answers[places]


@dataclass(frozen=True)
class Relations:
    """What a row says to be right for what, by the terms of its stage.

    Args:
        asking: roles that ask, of which every form of the answer is right, and every wording of the question as good.
        forms: roles in which the answers stand among the candidates.
        forwards: whether what asks finds the answers.
        backwards: whether the answers find what asks.
        plain: pairs of roles (asks, answers) that both ask, or both answer: right for each other is what says the same,
            or stands for one answer.
    """

    asking: tuple[str, ...]
    forms: tuple[str, ...]
    forwards: bool
    backwards: bool
    plain: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, terms: Sequence[Term]) -> Relations:
        """Return the relations of a stage's terms."""
        links = set(chain.from_iterable(map(_links, terms)))
        questions = set(filter(_is_question, links))
        forwards = {link for link in questions if link[1] in ANSWERS}
        backwards = questions - forwards
        asking = {asks for asks, _ in forwards} | {found for _, found in backwards}
        plain = tuple(sorted(links - questions))
        return cls(tuple(sorted(asking)), _forms(terms), bool(forwards), bool(backwards), plain)

    def asks(self, row: TrainingRow) -> list[Item]:
        """Return all that a row asks, in all wordings."""
        return list(dict.fromkeys(chain.from_iterable(map(row.playing, self.asking))))

    def answers(self, row: TrainingRow) -> list[tuple[Item, ...]]:
        """Return for each of `forms` what is right for what a row asks."""
        return list(map(row.playing, self.forms)) if self.asking else []


def _forms(terms: Sequence[Term]) -> tuple[str, ...]:
    """Return the roles in which answers may stand among the candidates."""
    # what is no answer in its own row, a source caption, say, may be one of another row in a form that no term has
    if any(term.negatives or term.same_side for term in terms):
        return ANSWERS
    candidates = {role for term in terms for role in term.roles}
    return tuple(role for role in ANSWERS if role in candidates)


def _links(term: Term) -> Iterator[tuple[str, str]]:
    """Yield which role finds which by a term."""
    for query, positive in zip(term.query, term.positive, strict=True):
        if query != positive:  # with the frozen model, that of the same input; it is right for itself in any case
            yield query, positive
            if term.symmetric:
                yield positive, query


def _is_question(link: tuple[str, str]) -> bool:
    """Return whether one of the two answers what the other asks: two forms of one answer do not, nor two of a query."""
    return (link[0] in ANSWERS) != (link[1] in ANSWERS)


def known_answers(
    rows: Iterable[TrainingRow], relations: Relations, key: Key, sharing: Sharing = ALONE
) -> KnownAnswers:
    """Return the pairs of this process's rows and of the other processes'.

    Takes 24 bytes of memory a pair while it looks, and 16 afterwards.

    Args:
        rows: this process's share of those of the stage.
        relations: what they say.
        key: gives the number of an item (`keys.ItemKeys`).
        sharing: with other processes.
    """
    asked, answers, forms = array("q"), array("q"), array("q")
    for row in rows:
        try:
            pairs = _pairs(row, relations, key)
        except DataError:
            continue  # named when the row's turn comes
        for pair in pairs:
            for column, value in zip((asked, answers, forms), pair, strict=True):
                column.append(value)
    columns = [sharing.gather(np.array(column, np.int64)) for column in (asked, answers, forms)]
    return _sorted(*columns)


def told_by(row: TrainingRow, relations: Relations, key: Key) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the pairs that a row with further right answers, or other words, tells itself: the keys of what asks, and
    of what is right for it. A row without them tells none that a batch with it does not show."""
    pairs = _pairs(row, relations, key) if row.others else []
    return tuple(asks for asks, _, _ in pairs), tuple(answer for _, answer, _ in pairs)


def readable(rows: _Rows, places: np.ndarray, sharing: Sharing, title: str) -> Iterator[TrainingRow]:
    """Yield the rows at `places` [N] int64 that can be made, this process's share, under a bar where there are many."""
    share = sharing.share(len(places))
    hide = len(places) < _BAR_ROWS or sharing.rank > 0
    own = places[share.start : share.stop].tolist()
    for index in tqdm(own, desc=title, unit="row", leave=False, disable=hide, mininterval=1):
        try:
            yield rows[index]
        except (DataError, ImageError):
            continue  # named when the row's turn comes


def _pairs(row: TrainingRow, relations: Relations, key: Key) -> list[tuple[int, int, int]]:
    """Return what a row says: key that asks, key that is right, and what counts for `several`: the form from 1 on."""
    asks = list(map(key, relations.asks(row)))
    found: list[tuple[int, int, int]] = []
    for form, items in enumerate(relations.answers(row), start=1):
        answers = list(map(key, items))
        if relations.forwards:
            found += ((ask, answer, form) for ask, answer in product(asks, answers))
        if relations.backwards:
            found += ((answer, ask, 0) for ask, answer in product(asks, answers))
    for query, positive in relations.plain:
        pairs = row.together(query, positive)
        found += ((key(one), key(other), len(relations.forms) + 1) for one, other in pairs)
    return list(dict.fromkeys(found))


def _sorted(asked: np.ndarray, answers: np.ndarray, forms: np.ndarray) -> KnownAnswers:
    order = np.lexsort((answers, asked))
    asked, answers, forms = asked[order], answers[order], forms[order]
    first = np.ones(len(asked), bool)
    first[1:] = (asked[1:] != asked[:-1]) | (answers[1:] != answers[:-1])
    return KnownAnswers(asked[first], answers[first], _several(asked, answers, forms))


def _several(asked: np.ndarray, answers: np.ndarray, forms: np.ndarray) -> int:
    """Return how many that ask have two right answers of one form, of pairs [P] in order of `asked`."""
    counted = forms > 0
    columns = np.unique(np.stack([asked[counted], forms[counted], answers[counted]]), axis=1)
    twice = (columns[:2, 1:] == columns[:2, :-1]).all(0)
    return len(np.unique(columns[0, 1:][twice]))
