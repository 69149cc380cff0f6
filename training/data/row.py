"""The canonical training row."""

from __future__ import annotations

from dataclasses import dataclass, field

from mllm_embed.types import Item


@dataclass(frozen=True)
class TrainingRow:
    """One training example, whatever its data set.

    Args:
        id: its name in its source.
        group: rows with one group ask about one reference.
        roles: what plays which role, by the names of `roles.ROLES`.
        hard_negatives: wrong answers that were chosen for this row: given by its data set, or mined.
        task: what an embedder of many tasks is told of the one that this row asks; None where its data does not say.
    """

    id: str
    group: str
    roles: dict[str, Item] = field(hash=False)
    hard_negatives: tuple[Item, ...] = ()
    task: str | None = None
