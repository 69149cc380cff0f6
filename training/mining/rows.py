"""The rows that are mined, of any sources, and the roles in which they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mllm_embed.data.folder import PAIRS, TEXTS, TRIPLETS
from mllm_embed.errors import ConfigError, DataError, did_you_mean
from mllm_embed.inputs.prompts import PromptSet

from ..data import TrainingRow
from ..data.formats import FORMATS
from ..data.open import open_rows
from ..data.roles import ROLES
from ..data.rows import MixedRows
from ..data.source import DataSource
from ..recipe.row_stage import RowStage
from ..recipe.sides import Sides
from .mined_file import described

# What asks and what is found where nobody says: the first role that rows have. In the order in which kinds of rows are
# looked for in a source.
DEFAULT_QUERY = {
    "triplets": ("composed", "query"), "pairs": ("image",), "texts": ("composed_text", "source_text"),
}  # fmt: skip
DEFAULT_POSITIVE = {
    "triplets": ("target_image", "target_text", "target"), "pairs": ("caption",), "texts": ("target_text",),
}  # fmt: skip
_FILES = {"triplets": TRIPLETS, "pairs": PAIRS, "texts": TEXTS}
# columns of ours by which a source of columns has rows of a kind
_TELLING = {
    "triplets": {"target_image", "target_text", "target_caption"},
    "pairs": {"caption"},
    "texts": {"source_text"},
}
_NEEDED_BY = "mining"
_SAMPLED = 500  # rows that are looked at for the roles that they offer


@dataclass(frozen=True)
class Roles:
    """In which roles rows are mined: what asks, what is found, and what else is a candidate."""

    query: str
    positive: str
    also: tuple[str, ...] = ()

    def check(self, kind: str) -> None:
        """Raise ConfigError for a role that rows of `kind` do not have."""
        known = [role for role in ROLES[kind] if role != "hard_negative"]
        for option, role in (
            ("query", self.query),
            ("positive", self.positive),
            *(("also", role) for role in self.also),
        ):
            if role not in known:
                raise ConfigError(
                    f"--{option} {role} is no role of rows: {kind}, which offer {', '.join(known)}"
                    f"{did_you_mean(role, known)}"
                )


@dataclass
class RowsToMine(Sequence[TrainingRow]):
    """The rows of all sources on the sides of a search, as in training: what asks is a query, with its task.

    Args:
        mixed: the rows.
        kind: "pairs", "triplets" or "texts".
        roles: in which they are mined.
        sides: with the tasks of both; its roles that ask are set here.
    """

    mixed: MixedRows
    kind: str
    roles: Roles
    sides: Sides = field(default_factory=Sides)

    @classmethod
    def open(
        cls,
        sources: Sequence[DataSource],
        kind: str | None = None,
        query: str | None = None,
        positive: str | None = None,
        also: Sequence[str] = (),
        tasks: tuple[str | None, str | None] = (None, None),
        stage: RowStage | None = None,
    ) -> RowsToMine:
        """Open sources; what is None is as `stage` has it, and without a stage the first that the sources offer.

        Raises ConfigError for a role that there is not, DataError as `open_rows` and where no default fits all sources.
        """
        if stage:
            tasks = tasks[0] or stage.searched.query_task, tasks[1] or stage.searched.document_task
        if stage and kind in (None, stage.rows):
            kind, query, positive = stage.rows, query or stage.searched.query, positive or stage.searched.positive
        kind = kind or _kind_of(sources)
        roles = Roles(*_query_and_positive(sources, kind, query, positive), tuple(also))
        roles.check(kind)
        return cls(
            open_rows(sources, kind, [roles.query, roles.positive], _NEEDED_BY), kind, roles, Sides(frozenset(), *tasks)
        )

    def __post_init__(self) -> None:
        found = {self.roles.positive, *self.roles.also}
        self.sides = replace(self.sides, queries=frozenset({self.roles.query} - found))
        self._sides = [self.sides.of(part.source) for part in self.mixed.parts]
        self._records = [part.records() for part in self.mixed.parts]

    def __len__(self) -> int:
        return len(self.mixed)

    def __getitem__(self, index: int) -> TrainingRow:  # type: ignore[override]  # nothing slices rows
        """Return a row. Raises DataError, naming file and row, for one that cannot be made."""
        part, inside = self.mixed.at(index)
        return self._sides[part].put(self.mixed.parts[part][inside])

    def ask_with(self, prompts: PromptSet) -> bool:
        """Set how rows are asked: a data set's instructions for which the prompts have no place stand in the words.

        Return whether that may have changed any of them.
        """
        self.sides = replace(self.sides, prompts=prompts)
        self._sides = [self.sides.of(part.source) for part in self.mixed.parts]
        return any(FORMATS[part.source.format].instructed for part in self.mixed.parts)

    def place(self, index: int) -> tuple[int, int]:
        """Return the number of a row's source, and its own in that source's files."""
        part, inside = self.mixed.at(index)
        return part, int(self._records[part][inside])

    def described(self) -> dict[str, Any]:
        """Return, as plain JSON, what a mined file's header says of the rows."""
        roles = self.roles
        named = {"query_task": self.sides.query_task, "document_task": self.sides.document_task}
        given = {name: task for name, task in named.items() if task is not None}
        told = {"query": roles.query, "positive": roles.positive, "also": list(roles.also), **given}
        return {"rows": self.kind, "sources": list(map(described, self.mixed.parts)), **told}


def _kind_of(sources: Sequence[DataSource]) -> str:
    """Return the kind of rows to mine: the first that every source has. Raises ConfigError where there is none."""
    for kind in DEFAULT_QUERY:
        if all(_has(source, kind) for source in sources):
            return kind
    paths = ", ".join(str(source.path) for source in sources)
    raise ConfigError(f"{paths}: say with --rows what to read: {', '.join(DEFAULT_QUERY)}")


def _has(source: DataSource, kind: str) -> bool:
    format = FORMATS[source.format]
    if source.format == "folder":
        return (source.path / _FILES[kind]).is_file() or not source.path.is_dir()  # which is told when it is opened
    if len(format.kinds) > 1:
        return not _TELLING[kind].isdisjoint({*format.columns, *source.columns})
    return kind in format.kinds


def _offered(mixed: MixedRows) -> list[set[str]]:
    """Return the roles of some rows from everywhere."""
    offered = []
    for index in np.unique(np.linspace(0, len(mixed) - 1, min(len(mixed), _SAMPLED)).astype(int)).tolist():
        try:
            offered.append(set(mixed[index].roles))
        except DataError:
            continue  # told when its turn comes
    return offered


def _query_and_positive(
    sources: Sequence[DataSource], kind: str, query: str | None, positive: str | None
) -> tuple[str, str]:
    """Return both roles; the one that is None is the first that all sources offer."""
    if query is not None and positive is not None:
        return query, positive
    offered = _offered(open_rows(sources, kind, []))
    return (
        query or _default("--query", DEFAULT_QUERY[kind], offered),
        positive or _default("--positive", DEFAULT_POSITIVE[kind], offered),
    )


def _default(option: str, roles: Sequence[str], offered: list[set[str]]) -> str:
    """Return the first of the roles that all rows offer; the only one in any case, since rows without it are told of
    by themselves, and those of a format whose rows differ are left out.

    Raises DataError where no role is in all rows.
    """
    if len(roles) == 1:
        return roles[0]
    for role in roles:
        if offered and all(role in row for row in offered):
            return role
    raise DataError(f"not every row has {' or '.join(roles)}: say with {option} what to take")
