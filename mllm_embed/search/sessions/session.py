"""A search of several turns: ask, pick an answer or not, ask again, go back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError
from ...types import ImageLike, Images
from ...vectors.fusion import weighted
from ..composition import Composition
from .rules import rule_named
from .turn import Parts, Turn

if TYPE_CHECKING:
    from ..searcher import Hit, Searcher, Where

DEFAULT_RULE = "mixed answers"  # what carries most on the demo's scenes, of all that nobody picks answers for


class Session:
    """A search of several turns of one gallery; `Searcher.session` starts one.

    What is said is carried from turn to turn by a rule of `sessions.rules`. Nothing is kept in the gallery, so that
    many sessions may share it.

    Attributes:
        rule, settings: how the past is carried.
        turns: what was said so far, a `Turn` each.
        hits: what answers now; nothing before the first turn.
    """

    def __init__(
        self, searcher: Searcher, rule: str = DEFAULT_RULE, *, task: str | None = None, **settings: float
    ) -> None:
        """Start a session.

        Args:
            searcher: of the gallery.
            rule: name of a rule, as `rules.rules()` lists them.
            task: what a model that was trained on many tasks is told of every query, as of `Query`.
            settings: of the rule, in the place of its defaults: `decay=0.3`.

        Raises:
            ConfigError: an unknown rule, or a setting that it has not got.
        """
        self.searcher, self.rule, self.task, self.settings = searcher, rule_named(rule), task, settings
        self.rule.check(settings, f"the rule '{self.rule.name}'")
        self._turns: list[Turn] = []
        self._answers: list[list[Hit]] = []
        self._picked: ImageLike | None = None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What was said so far."""
        return tuple(self._turns)

    @property
    def hits(self) -> list[Hit]:
        """What answers now."""
        return list(self._answers[-1]) if self._answers else []

    def ask(
        self,
        instruction: str | None = None,
        image: Images | None = None,
        *,
        k: int = 5,
        exclude: Collection[str] = (),
        allow: Collection[str] | None = None,
        where: Where | None = None,
        exclude_reference: bool = False,
        unseen: bool = False,
        edit_strength: float = 1.0,
    ) -> list[Hit]:
        """Say something, and return the k best pictures for all that was said so far.

        Args:
            instruction: what is said; may be left out where there is a picture.
            image: the picture, or pictures, that it is about, in the place of one that was picked. Without either, it
                is about what the rule goes on from.
            k, exclude, allow, where: as of `Searcher.search`, for this turn alone.
            edit_strength: as of `Searcher.search`, of all that is carried into this turn; no later turn keeps it.
            exclude_reference: leave out pictures that are searched with, byte for byte, whatever their ids.
            unseen: leave out all that the session has shown before.

        Raises:
            DataError: nothing is said; the turn before has no answer to go on from; what `Searcher.search` raises. The
                session is as it was then.
        """
        turn = Turn(instruction, self._picked if image is None else image)
        if turn.instruction is None and turn.reference is None:  # a rule might well search with what was said before
            raise DataError("nothing is said: give an instruction, an image, or pick an answer")
        parts = self.rule.run([*self._turns, turn], **self.settings)
        hits = self.searcher.find(
            self._vector(parts, edit_strength),
            k,
            [*exclude, *(self._shown() if unseen else ())],
            allow=allow,
            where=where,
            other_than=list(chain.from_iterable(query.images for _, query in parts)) if exclude_reference else (),
        )
        self._turns.append(replace(turn, answer=hits[0].image if hits else None))
        self._answers.append(hits)
        self._picked = None
        return list(hits)

    def pick(self, id: str) -> None:
        """Point at a picture of the gallery, an answer perhaps: what is asked next is about it.

        Raises DataError for an unknown id, and for a row whose picture is not known or gone.
        """
        picture = self.searcher.picture(id)
        if picture is None:
            raise DataError(f'the picture of "{id}" is not known or gone: give it to `ask` as its image')
        self._picked = picture

    def back(self) -> list[Hit]:
        """Take back what was picked, where nothing was asked about it yet, or else the last turn.

        Returns what answers now. Raises DataError where there is nothing to take back.
        """
        if self._picked is not None:
            self._picked = None
        elif self._turns:
            self._turns.pop()
            self._answers.pop()
        else:
            raise DataError("the session is at its start: there is nothing to go back from")
        return self.hits

    def _vector(self, parts: Parts, edit_strength: float) -> np.ndarray:
        """Return what is searched with, [1, D] float32 of unit length."""
        # what weighs nothing is not embedded: in a batch with others the rest could differ in its last bits
        parts = [part for part in parts if part[0]] or parts
        asked = [Composition(replace(query, task=self.task), edit_strength) for _, query in parts]
        items = [question.items for question in asked]
        found = self.searcher.embedder.encode(list(chain.from_iterable(items)), show_progress=False)
        vectors = np.split(found, np.cumsum([len(part) for part in items])[:-1])
        weights = [weight for weight, _ in parts]
        made = [question.vector(part) for question, part in zip(asked, vectors, strict=True)]
        return weighted(*zip(weights, made, strict=True))

    def _shown(self) -> list[str]:
        """Return the ids of all that was shown, but for those that were removed since."""
        shown = list(dict.fromkeys(hit.id for hits in self._answers for hit in hits))
        gone = set(self.searcher.gallery.unknown(shown))
        return [name for name in shown if name not in gone]
