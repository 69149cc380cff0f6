"""Thoughts that a batch teaches: a row's own, which is its target's caption, or in its place none or another row's.

With the right caption always before it a vector learns to be read off that alone, and loses where the model's own
thought is wrong. So a share of the rows has to find its target with an empty thought, or a wrong one, from the picture
and the instruction; such thoughts are not taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from mllm_embed.errors import DataError
from mllm_embed.thoughts.writer import Thought, ThoughtWriter

from ..data import TrainingRow
from .examples import Example, PreparedInput

THINKING = frozenset({"composed", "query"})
"""The roles of which queries may think."""
THOUGHT_OF = "target_text"
"""The role whose words are the thought of a row."""


@dataclass(frozen=True)
class TaughtThoughts:
    """How the rows of a run are taught to think.

    Args:
        writer: of the model that is trained.
        dropped: share of the rows whose query has no thought, or another row's, half of them each.
    """

    writer: ThoughtWriter
    dropped: float = 0.0

    def of(self, row: TrainingRow, prepared: PreparedInput) -> PreparedInput:
        """Return an input of a row with the row's thought, where it is one that thinks. Raise DataError for a row whose
        target has no words."""
        if not self.writer.thinks(prepared.item):
            return prepared
        target = row.roles.get(THOUGHT_OF)
        if target is None or not target.words:
            raise DataError(f"row '{row.id}' has no {THOUGHT_OF}, from which its thought is taught")
        return self._with(prepared, self.writer.thought(target.words), True)

    def chosen(self, examples: Sequence[Example]) -> list[Example]:
        """Return examples with the thoughts that this batch has: by `Example.draw` and the other rows alone."""
        return [self._chosen(at, examples) for at in range(len(examples))]

    def _chosen(self, at: int, examples: Sequence[Example]) -> Example:
        example = examples[at]
        if example.draw >= self.dropped:
            return example
        own = _thought(example)
        other: Thought = ()
        if example.draw >= self.dropped / 2:
            after = chain(examples[at + 1 :], examples[:at])
            other = next((found for found in map(_thought, after) if found and found != own), ())
        change = partial(self._without, other)
        roles = {role: tuple(map(change, played)) for role, played in example.roles.items()}
        return replace(example, roles=roles)

    def _without(self, other: Thought, prepared: PreparedInput) -> PreparedInput:
        return prepared if prepared.thought is None else self._with(prepared, other, False)

    def _with(self, prepared: PreparedInput, thought: Thought, learned: bool) -> PreparedInput:
        before = 0 if prepared.thought is None else len(prepared.thought) + len(self.writer.suffix)
        tokens = prepared.tokens - before + len(thought) + len(self.writer.suffix)
        thinking = replace(prepared, thought=thought, learned=learned, tokens=tokens)
        if prepared.apart is None:
            return thinking
        query, avoided = prepared.apart  # of which the query is what thinks
        return replace(thinking, apart=(self._with(query, thought, learned), avoided))


def _thought(example: Example) -> Thought:
    """Return the thought of an example's query; an empty one where nothing of it thinks."""
    thoughts = (one.thought for played in example.roles.values() for one in played if one.thought is not None)
    return next(thoughts, ())
