"""From items to model input: pictures read, prompts filled, one left-padded batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .errors import DataError
from .families import Family
from .images import load_image, name_of
from .prompts import INSTRUCTION, MARKS, TEXT, PromptSet, render
from .types import Item, Role


class ItemProcessor:
    """Calls a Hugging Face processor on items; those with pictures and those without apart."""

    def __init__(self, processor: Any, prompts: PromptSet, family: Family | None = None, content: bool = False):
        """Items of a model of `family`, by default an ordinary one.

        With `content` batches get a `content_mask`: which tokens are the picture's and the user's words.
        """
        self.processor, self.prompts, self.content = processor, prompts, content
        self.family = family or Family()
        processor.tokenizer.padding_side = "left"
        named = (getattr(processor, name, None) for name in ("image_token", "video_token"))
        tokens = {*named, *processor.tokenizer.convert_ids_to_tokens(processor.image_token_ids)}
        self._placeholders = sorted(token for token in tokens if token)
        self._bare = cache(self._bare_tail)
        self._picture_tokens = cache(self._tokens_of_pictures)
        # rendered once a role, since a jinja template costs more than the tokens of a short text
        self._template = cache(lambda role, images: render(processor, prompts, role, images))
        bos = processor.tokenizer.bos_token
        self._add_special_tokens = not (bos and self._template("text", 0).startswith(bos))

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Items -> input_ids and attention_mask [B, L], pixels where there are pictures, and what the family adds.

        Either all items have pictures or none has, since processors differ in what they make of a mixture. Raises
        ImageError for an unreadable picture, DataError for a mixture and for words that hold the model's image token.
        """
        texts = [self.render(item) for item in items]
        pictures = [[load_image(image) for image in item.images] for item in items]
        if any(pictures) != all(pictures):
            raise DataError("a batch holds inputs with and without pictures; process the two kinds apart")
        try:
            batch = self._call(texts, pictures)
        except (ValueError, TypeError) as error:
            raise self._named(items, texts, pictures) or error from error
        if self.content:
            batch["content_mask"] = self._content_mask(items, batch)
        return batch

    def _call(self, texts: list[str], pictures: list[list[Image.Image]]) -> dict[str, Tensor]:
        options = {"padding": True, "return_tensors": "pt", "add_special_tokens": self._add_special_tokens}
        if not any(pictures) and self.family.texts_apart:
            types = "token_type_ids" in self.processor.model_input_names
            return dict(self.processor.tokenizer(texts, return_token_type_ids=types, **options))
        batch = dict(self.processor(text=texts, images=pictures if any(pictures) else None, **options))
        batch.pop("labels", None)  # PaliGemma's makes them without being asked
        return batch

    def _content_mask(self, items: Sequence[Item], batch: dict[str, Tensor]) -> Tensor:
        """[B, L] int64, 1 for a picture's tokens and for the words, which are what the prompt alone does not hold."""
        ids, real = batch["input_ids"], batch["attention_mask"].bool()
        mask = torch.isin(ids, torch.tensor(self.processor.image_token_ids)) & real
        for row, item in enumerate(items):
            tail = _after_pictures(ids[row], mask[row] if item.images else ~real[row])
            for bare in self._without_words(item):
                start, end = _inserted(tail.tolist(), bare)
                mask[row, len(ids[row]) - len(tail) + start : len(ids[row]) - len(tail) + end] = True
        return mask.long()

    def _without_words(self, item: Item) -> list[list[int]]:
        """The tokens after the last picture of the item's prompt without its words, or without each of its two."""
        marks = MARKS.get(item.role, ())
        if len(marks) < 2:
            return [self._bare(item.role, len(item.images))]
        given = {TEXT: item.text, INSTRUCTION: item.words}
        texts = [self._filled(item.role, 0, {**given, mark: ""}) for mark in marks]
        return [self._call([text], [[]])["input_ids"][0].tolist() for text in texts]

    def prepared(self, item: Item) -> tuple[Item, int]:
        """The item with its pictures decoded, and how many tokens it will take.

        Raises ImageError for an unreadable picture, DataError for one that this model cannot take and for words that
        hold its image token.
        """
        pictures = [load_image(image) for image in item.images]
        words = self.render(item)
        if not pictures:
            return item, self._call([words], [[]])["input_ids"].shape[1]
        try:
            more = self._picture_tokens(tuple(picture.size for picture in pictures))
        except (ValueError, TypeError) as error:
            raise self._named([item], [words], [pictures]) or error from error
        return replace(item, image=pictures), self._plain_tokens(words) + more

    def _tokens_of_pictures(self, sizes: tuple[tuple[int, int], ...]) -> int:
        """How many tokens pictures of some sizes become, beyond the placeholders that the prompt holds."""
        text = self._filled("image", len(sizes), {})
        batch = self._call([text], [[Image.new("RGB", size) for size in sizes]])
        return batch["input_ids"].shape[1] - self._plain_tokens(text)

    def _plain_tokens(self, text: str) -> int:
        return len(self.processor.tokenizer(text, add_special_tokens=self._add_special_tokens)["input_ids"])

    def render(self, item: Item) -> str:
        """The whole prompt of an item as the tokenizer gets it, with the placeholders of its pictures."""
        return self._filled(item.role, len(item.images), {TEXT: item.text or item.words, INSTRUCTION: item.words})

    def _filled(self, role: Role, images: int, words: dict[str, str | None]) -> str:
        marks = "|".join(map(re.escape, MARKS.get(role, ())))
        template = self._template(role, images)
        # in one pass, since the user's words may hold a mark
        return re.sub(marks, lambda mark: self._checked(words[mark[0]]), template) if marks else template

    def _named(self, items: Sequence[Item], texts: list[str], pictures: list[list[Image.Image]]) -> DataError | None:
        """The error of the first input that the processor refuses by itself."""
        for item, text, shown in zip(items, texts, pictures, strict=True):
            try:
                self._call([text], [shown])
            except (ValueError, TypeError) as error:
                what = ", ".join(map(name_of, item.images)) or repr((item.words or "")[:60])
                return DataError(f"{what} cannot be read by this model: {str(error).strip().splitlines()[0]}")
        return None

    def _checked(self, words: str) -> str:
        for token in self._placeholders:
            if token in words:
                raise DataError(f"the words {words.strip()[:60]!r} hold the model's image token {token}; take it out")
        return words.strip()

    def _bare_tail(self, role: Role, images: int) -> list[int]:
        """The tokens after the last picture of a prompt without words."""
        text = self._filled(role, images, dict.fromkeys(MARKS.get(role, ()), ""))
        blank = Image.new("RGB", (64, 64))
        batch = self._call([text], [[blank] * images])
        ids, real = batch["input_ids"][0], batch["attention_mask"][0].bool()
        pictures = torch.isin(ids, torch.tensor(self.processor.image_token_ids)) if images else ~real
        return _after_pictures(ids, pictures).tolist()

    @staticmethod
    def length(item: Item) -> tuple[int, int]:
        """A cheap key by which items of like length sort together: by pictures, then by words."""
        return len(item.images), len(item.text or "") + len(item.words or "")


def _after_pictures(ids: Tensor, before: Tensor) -> Tensor:
    """The tokens behind the last one that `before` marks: [L] int64, [L] bool -> [T] int64."""
    marked = before.nonzero()
    return ids[int(marked[-1]) + 1 :] if len(marked) else ids


def _inserted(tokens: list[int], bare: list[int]) -> tuple[int, int]:
    """Start and end of what `tokens` holds between the beginning and the end that it shares with `bare`."""
    shared = min(len(tokens), len(bare))
    start = next((at for at in range(shared) if tokens[at] != bare[at]), shared)
    left = shared - start
    same = next((at for at in range(left) if tokens[-1 - at] != bare[-1 - at]), left)
    return start, len(tokens) - same
