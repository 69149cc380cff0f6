"""From items to model input: pictures read, prompts filled, one left-padded batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import Tensor

from .errors import DataError
from .images import load_image
from .prompts import INSTRUCTION, MARKS, TEXT, PromptSet, render
from .types import Item


class ItemProcessor:
    """Calls a Hugging Face processor on items; roles may be mixed in a batch."""

    def __init__(self, processor: Any, prompts: PromptSet):
        self.processor, self.prompts = processor, prompts
        processor.tokenizer.padding_side = "left"
        # rendered once a role, since a jinja template costs more than the tokens of a short text
        self._template = cache(lambda role, images: render(processor, prompts, role, images))
        bos = processor.tokenizer.bos_token
        self._add_special_tokens = not (bos and self._template("text", 0).startswith(bos))

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Items -> input_ids and attention_mask [B, L], pixels of the items with a picture, and what the family adds.

        Raises ImageError for an unreadable picture and DataError for words that hold the model's image token.
        """
        images = [load_image(image) for item in items for image in item.images]
        batch = self.processor(
            text=[self.render(item) for item in items],
            images=images or None,
            padding=True,
            return_tensors="pt",
            add_special_tokens=self._add_special_tokens,
        )
        return dict(batch)

    def render(self, item: Item) -> str:
        """The whole prompt of an item as the tokenizer gets it, with the placeholders of its pictures."""
        words = {TEXT: item.text or item.words, INSTRUCTION: item.words}
        marks = "|".join(map(re.escape, MARKS.get(item.role, ())))
        template = self._template(item.role, len(item.images))
        # in one pass, since the user's words may hold a mark
        return re.sub(marks, lambda mark: self._checked(words[mark[0]]), template) if marks else template

    def _checked(self, words: str) -> str:
        token = getattr(self.processor, "image_token", None)
        if token and token in words:
            raise DataError(f"the words {words.strip()[:60]!r} hold the model's image token {token}; take it out")
        return words.strip()

    @staticmethod
    def length(item: Item) -> tuple[int, int]:
        """A cheap key by which items of like length sort together: by pictures, then by words."""
        return len(item.images), len(item.text or "") + len(item.words or "")
