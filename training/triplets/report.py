"""A count of what became of the answers, as JSON and for a person."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mllm_embed.text import printable

from .answers import REASONS
from .captions import Caption


class Drops:
    """What was dropped, by reason, with the first example of each."""

    def __init__(self, reasons: Mapping[str, str]):
        """Know what each reason means."""
        self.reasons = reasons
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, dict[str, str]] = {}

    def add(self, reason: str, about: Mapping[str, str], answer: Any) -> None:
        """Count an answer, or a part of one, as dropped; `about` is what it was an answer to, its id among it."""
        self.counts[reason] += 1
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        text = text[:1000].encode(errors="replace").decode()  # it may hold half a character
        self._examples.setdefault(reason, {**about, "answer": text})

    def worst(self) -> str:
        """Return what the most frequent reason means."""
        return self.reasons[self.counts.most_common(1)[0][0]]

    def values(self) -> dict[str, Any]:
        """Return them as JSON holds them."""
        return {
            reason: {"count": count, "meaning": self.reasons[reason], "example": self._examples[reason]}
            for reason, count in self.counts.most_common()
        }

    def lines(self) -> list[str]:
        """Return them as a person reads them; what a terminal would act on is left out of the examples."""
        lines = []
        for reason, count in self.counts.most_common():
            example = self._examples[reason]
            shown = "".join(letter if letter.isprintable() else " " for letter in example["answer"])
            lines.append(f"{count:>9,} {reason:<17}{self.reasons[reason]}")
            lines.append(f"{'':>27}e.g. {example['id']}: {' '.join(shown.split())[:150]}")
        return lines


@dataclass
class Report:
    """The numbers of captions, changes in their answers, triplets by kind, and what was dropped by reason.

    `unreadable` says by the place of a row why it has no caption or picture, and `pictures` counts those that lay as
    bytes in tables and have files now. Nothing in it depends on the day: the same answers give the same report.
    """

    captions: int = 0
    changes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    dropped: Drops = field(default_factory=lambda: Drops(REASONS))
    unreadable: Mapping[str, str] = field(default_factory=dict)
    pictures: int = 0

    def drop(self, reason: str, caption: Caption, answer: Any) -> None:
        """Count an answer, or a change in one, as dropped; the first of a reason is shown."""
        self.dropped.add(reason, {"id": caption.id, "caption": caption.text}, answer)

    def values(self) -> dict[str, Any]:
        """Return the report as JSON holds it."""
        return {
            "unreadable": {"count": len(self.unreadable), "example": self._unreadable()},
            "captions": self.captions,
            "changes": self.changes,
            "triplets": self.kinds.total(),
            "pictures_written": self.pictures,
            "kinds": dict(self.kinds.most_common()),
            "dropped": self.dropped.values(),
        }

    def _unreadable(self) -> str | None:
        """Return the first row that cannot be read, and why."""
        return next((printable(f"{place}: {why}") for place, why in self.unreadable.items()), None)

    def table(self) -> str:
        """Return the report as a person reads it; what a terminal would act on is left out of the examples."""
        counts = f"{self.captions:,} captions, {self.changes:,} changes in their answers"
        lines = [f"{counts}, {self.kinds.total():,} triplets"]
        if self.unreadable:
            lines.append(f"rows that cannot be read, of which none is made: {len(self.unreadable):,}")
            lines.append(f"{'':>24}e.g. {self._unreadable()}")
        if self.kinds:
            lines.append("kinds: " + ", ".join(f"{kind} {count:,}" for kind, count in self.kinds.most_common()))
        return "\n".join([*lines, *self.dropped.lines()])
