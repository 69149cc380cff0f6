"""A count of what became of pictures, pairs and answers, as JSON and for a person, and a picture of some triplets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mllm_embed.search.contact_sheet import SheetRow, contact_sheet

from ..report import Drops
from .check import CHECKED
from .gallery import Pictures
from .judge import JUDGED
from .pairs import PASSED_OVER, Pair

SHOWN_TRIPLETS, SHOWN_NEGATIVES = 8, 4


@dataclass(frozen=True)
class Made:
    """A triplet: the number of its pair, the pair, the instructions that lead from one to the other, the kind of the
    first, and the hard negatives that suit all of them."""

    number: int
    pair: Pair
    instructions: tuple[str, ...]
    kind: str | None
    negatives: tuple[str, ...]


@dataclass
class PairReport:
    """The numbers of pictures, of pairs by the similarity that found them, of what was passed over, of instructions in
    the answers, of triplets and the instructions in them.

    `written` counts pictures that lay as bytes in tables and have files now. Nothing in it depends on the day.
    """

    pictures: int
    pairs: Counter[str] = field(default_factory=Counter)
    passed_over: Mapping[str, int] = field(default_factory=dict)
    instructions: int = 0
    kept: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    dropped: Drops = field(default_factory=lambda: Drops({**JUDGED, **CHECKED}))
    negatives: int = 0
    negatives_dropped: int = 0
    written: int = 0

    def keep(self, triplet: Made) -> None:
        """Count a triplet."""
        self.kinds[triplet.kind or "unnamed"] += 1
        self.kept += len(triplet.instructions)
        self.negatives += len(triplet.negatives)
        self.negatives_dropped += len(triplet.pair.negatives) - len(triplet.negatives)

    def drop(self, reason: str, pair: Pair, answer: Any) -> None:
        """Count an answer, or an instruction in one, as dropped."""
        self.dropped.add(reason, {"id": f"{pair.reference} -> {pair.target}"}, answer)

    def values(self) -> dict[str, Any]:
        """Return the report as JSON holds it."""
        return {
            "pictures": self.pictures,
            "pairs": dict(self.pairs),
            "passed_over": dict(self.passed_over),
            "instructions": self.instructions,
            "triplets": self.kinds.total(),
            "instructions_kept": self.kept,
            "negatives": {"kept": self.negatives, "dropped": self.negatives_dropped},
            "pictures_written": self.written,
            "kinds": dict(self.kinds.most_common()),
            "dropped": self.dropped.values(),
        }

    def table(self) -> str:
        """Return the report as a person reads it."""
        found = ", ".join(f"{count:,} by {by}" for by, count in self.pairs.items())
        lines = [
            f"{self.pictures:,} pictures, {self.pairs.total():,} pairs ({found}), {self.instructions:,} instructions "
            f"in the answers, {self.kinds.total():,} triplets with {self.kept:,} of them",
            *passed_over_line(self.passed_over),
        ]
        if self.kinds:
            lines.append("kinds: " + ", ".join(f"{kind} {count:,}" for kind, count in self.kinds.most_common()))
        if self.negatives or self.negatives_dropped:
            lines.append(
                f"hard negatives: {self.negatives:,}; left out as probably right too: {self.negatives_dropped:,}"
            )
        return "\n".join([*lines, *self.dropped.lines()])


def passed_over_line(passed_over: Mapping[str, int]) -> list[str]:
    """Return what was looked at and made no pair, in a line; none where all did."""
    counts = [f"{count:,} {PASSED_OVER[reason]}" for reason, count in passed_over.items() if count]
    return [f"looked at and no pair: {'; '.join(counts)}"] if counts else []


def write_triplet_sheet(path: Path, made: Sequence[Made], pictures: Pictures) -> None:
    """Draw some triplets, spread over all: reference, instruction, target (framed) and hard negatives, as a PNG."""
    places = np.linspace(0, len(made) - 1, min(SHOWN_TRIPLETS, len(made))).astype(int)
    contact_sheet([_sheet_row(made[place], pictures) for place in places.tolist()], path)


def _sheet_row(triplet: Made, pictures: Pictures) -> SheetRow:
    negatives = triplet.negatives[:SHOWN_NEGATIVES]
    names = (triplet.pair.target, *negatives)
    return SheetRow(
        pictures[triplet.pair.reference],
        triplet.instructions[0],
        [pictures[name] for name in names],
        [True, *[False] * len(negatives)],
        ["target", *["negative"] * len(negatives)],
    )
