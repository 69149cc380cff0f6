"""From items to model input: pictures read, prompts filled, one left-padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .errors import DataError
from .images import load_image
from .prompts import INSTRUCTION, TEXT, PromptSet, render
from .types import Item


class ItemProcessor:
    """Calls a Hugging Face processor on items; roles may be mixed in a batch."""

    def __init__(self, processor: Any, prompts: PromptSet):
        self.processor, self.prompts = processor, prompts
        processor.tokenizer.padding_side = "left"
        # rendered once a role, since a jinja template costs more than the tokens of a short text
        self._rendered = {role: render(processor, prompts, role) for role in ("composed", "image", "text")}
        bos = processor.tokenizer.bos_token
        self._add_special_tokens = not (bos and self._rendered["text"].startswith(bos))

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Items -> input_ids and attention_mask [B, L], pixels of the items with a picture, and what the family adds.

        Raises ImageError for an unreadable picture and DataError for words that hold the model's image token.
        """
        images = [load_image(item.image) for item in items if item.image is not None]
        batch = self.processor(
            text=[self.render(item) for item in items],
            images=images or None,
            padding=True,
            return_tensors="pt",
            add_special_tokens=self._add_special_tokens,
        )
        return dict(batch)

    def render(self, item: Item) -> str:
        """The whole prompt of an item as the tokenizer gets it, with the placeholder of its picture."""
        words = (item.words or "").strip()
        token = getattr(self.processor, "image_token", None)
        if token and token in words:
            raise DataError(f"the words {words[:60]!r} hold the model's image token {token}; take it out")
        return self._rendered[item.role].replace(INSTRUCTION if item.image is not None else TEXT, words)

    @staticmethod
    def length(item: Item) -> tuple[int, int]:
        """A cheap key by which items of like length sort together: pictures apart from texts, then by words."""
        return int(item.image is not None), len(item.words or "")
