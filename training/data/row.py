"""The canonical training row."""

from __future__ import annotations

from dataclasses import dataclass, field

from mllm_embed.types import Item


@dataclass(frozen=True)
class TrainingRow:
    """One training example: what plays which role, under which id; rows with one `group` ask about one reference.

    `hard_negatives` are wrong answers that were chosen for this row: given by its data set, or mined.
    """

    id: str
    group: str
    roles: dict[str, Item] = field(hash=False)
    hard_negatives: tuple[Item, ...] = ()
