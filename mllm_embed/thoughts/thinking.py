"""Thinking as a plan of encoding knows it: which inputs think, what they thought before, and their model input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, MutableMapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..types import Item
from .decoding import ThinkingBatch
from .writer import LABELS, Thought, ThoughtWriter

ThoughtMemory: TypeAlias = MutableMapping[str, Thought]
"""Thoughts by the key of what was asked: a dict, or what lies on a disk (generate/thought_cache.py)."""


class Thinking:
    """The thoughts of one embedder."""

    def __init__(self, writer: ThoughtWriter, identity: Callable[[], dict[str, Any]], memory: ThoughtMemory | None):
        """Take an embedder's layout.

        Args:
            writer: of its inputs.
            identity: returns what tells its vectors from others', as plain JSON; asked only where something is
                remembered.
            memory: what was thought before, and is not thought again; None to think each time.
        """
        self.writer, self.memory, self._identity = writer, memory, identity
        self._of_model: str | None = None

    def thinks(self, item: Item) -> bool:
        """Whether an item thinks first."""
        return self.writer.thinks(item)

    def key(self, prompt: str, pictures: Sequence[Hashable]) -> str | None:
        """Return the key of a query: of the model, the whole prompt, and the content of its pictures; None for pictures
        whose content is not known before they are made."""
        if not all(isinstance(content, str) for content in pictures):
            return None
        if self._of_model is None:
            self._of_model = json.dumps(self._identity(), sort_keys=True)
        asked = json.dumps([self._of_model, prompt, list(pictures)])
        return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()

    def known(self, prompt: str, pictures: Sequence[Hashable]) -> Thought | None:
        """Return what was thought before; None where that is not known."""
        key = None if self.memory is None else self.key(prompt, pictures)
        return None if self.memory is None or key is None else self.memory.get(key)

    def recalled(self, items: Sequence[Item], thoughts: Sequence[Thought]) -> dict[str, Tensor]:
        """Return the model input of queries that thought before. Raises as `ItemProcessor`."""
        batch = self.writer.taught(items, thoughts, [False] * len(items))
        del batch[LABELS]
        return batch

    def batch(
        self, items: Sequence[Item], asked: Sequence[tuple[str, Sequence[Hashable]]], first_shown: Tensor | None
    ) -> ThinkingBatch:
        """Return queries that are to think; what they thought is remembered.

        Args:
            items: the queries.
            asked: the whole prompt of each, and the content of its pictures.
            first_shown: [B] int64, the first row that shows the same picture; None where that is not asked for.

        Raises as `ItemProcessor`.
        """
        prompts = self.writer.prompts(items)
        if first_shown is not None:
            prompts["first_shown"] = first_shown
        ends = torch.tensor(sorted(self.writer.ends))
        keys = [None if self.memory is None else self.key(*one) for one in asked]

        def told(row: int, thought: Thought) -> None:
            key = keys[row]
            if self.memory is not None and key is not None:
                self.memory[key] = thought

        return ThinkingBatch(prompts, self.writer.thoughts.tokens, ends, self.writer.suffix, told)
