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


@dataclass
class Report:
    """The numbers of captions, changes in their answers, triplets by kind, and what was dropped by reason.

    `unreadable` says by the place of a row why it has no caption or picture, and `pictures` counts those that lay as
    bytes in tables and have files now. Nothing in it depends on the day: the same answers give the same report.
    """

    captions: int = 0
    changes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, dict[str, str]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    pictures: int = 0

    def drop(self, reason: str, caption: Caption, answer: Any) -> None:
        """Count an answer, or a change in one, as dropped; the first of a reason is shown."""
        self.dropped[reason] += 1
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        text = text[:1000].encode(errors="replace").decode()  # it may hold half a character
        self.examples.setdefault(reason, {"id": caption.id, "caption": caption.text, "answer": text})

    def values(self) -> dict[str, Any]:
        """Return the report as JSON holds it."""
        return {
            "unreadable": {"count": len(self.unreadable), "example": self._unreadable()},
            "captions": self.captions,
            "changes": self.changes,
            "triplets": self.kinds.total(),
            "pictures_written": self.pictures,
            "kinds": dict(self.kinds.most_common()),
            "dropped": {
                reason: {"count": count, "meaning": REASONS[reason], "example": self.examples[reason]}
                for reason, count in self.dropped.most_common()
            },
        }

    def _unreadable(self) -> str | None:
        """Return the first row that cannot be read, and why."""
        return next((printable(f"{place}: {why}") for place, why in self.unreadable.items()), None)

    def table(self) -> str:
        """Return the report as a person reads it; what a terminal would act on is left out of the examples."""
        counts = f"{self.captions:,} captions, {self.changes:,} changes in their answers"
        lines = [f"{counts}, {self.kinds.total():,} triplets"]
        if self.unreadable:
            lines.append(
                f"{len(self.unreadable):,} rows cannot be read and have none; the first is {self._unreadable()}"
            )
        if self.kinds:
            lines.append("kinds: " + ", ".join(f"{kind} {count:,}" for kind, count in self.kinds.most_common()))
        for reason, count in self.dropped.most_common():
            example = self.examples[reason]
            shown = "".join(letter if letter.isprintable() else " " for letter in example["answer"])
            lines.append(f"{count:>9,} {reason:<14}{REASONS[reason]}")
            lines.append(f"{'':>24}e.g. {example['id']}: {' '.join(shown.split())[:150]}")
        return "\n".join(lines)
