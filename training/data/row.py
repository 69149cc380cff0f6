"""The canonical training row."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, product

from mllm_embed.types import Item

from .roles import ANSWERS


@dataclass(frozen=True)
class RowTasks:
    """The task instructions that a data set writes before the words of a row.

    Args:
        queries: of what asks: the one that is read, then the others, of which an epoch may read another.
        target: of pictures that answer, and of those among the hard negatives; None where nothing is written there.
        implied: those that the prompt of such an input says by itself, as that of a picture with an instruction says
            that the picture is to be changed.
    """

    queries: tuple[str, ...] = ()
    target: str | None = None
    implied: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TrainingRow:
    """One training example, whatever its data set.

    Args:
        id: its name in its source.
        group: rows with one group ask about one reference.
        roles: what plays which role, by the names of `roles.ROLES`.
        hard_negatives: wrong answers that were chosen for this row: given by its data set, or mined.
        task: what an embedder of many tasks is told of the one that this row asks; None where its data does not say.
        other_tasks: what the row may be told of its task as well; another of them is, in another epoch.
        others: by role what may play it as well: further right answers, other words of what it asks. In other epochs
            some of them do play it (`Turn`).
        tasks: the instructions that its data set writes before its words; None where it writes none.
        answers: where there are several, each right answer in its forms: by role what stands for it together, which
            `others` does not tell.
    """

    id: str
    group: str
    roles: dict[str, Item] = field(hash=False)
    hard_negatives: tuple[Item, ...] = ()
    task: str | None = None
    others: dict[str, tuple[Item, ...]] = field(default_factory=dict, hash=False)
    other_tasks: tuple[str, ...] = ()
    tasks: RowTasks | None = None
    answers: tuple[dict[str, Item], ...] = field(default=(), hash=False)

    def playing(self, role: str) -> tuple[Item, ...]:
        """Return what plays a role in some epoch or other, its own first; none for a role that the row has not."""
        own = (self.roles[role],) if role in self.roles else ()
        return (*own, *self.others.get(role, ()))

    def together(self, one: str, other: str) -> list[tuple[Item, Item]]:
        """Return what plays two roles together in some epoch or other: all wordings of what the row asks, but of an
        answer its own forms alone."""
        if one in ANSWERS and other in ANSWERS:
            answers = self.answers or (self.roles,)
            return [(forms[one], forms[other]) for forms in answers if one in forms and other in forms]
        return list(product(self.playing(one), self.playing(other)))

    @property
    def also_right(self) -> tuple[Item, ...]:
        """The further right answers, in each form in which they may stand: negatives of no query that the row asks."""
        return self._others(True)

    @property
    def also_asked(self) -> tuple[Item, ...]:
        """The other words of what the row asks: queries whose right answers are the row's."""
        return self._others(False)

    def _others(self, answers: bool) -> tuple[Item, ...]:
        listed = (items for role, items in self.others.items() if (role in ANSWERS) == answers)
        return tuple(dict.fromkeys(chain.from_iterable(listed)))
