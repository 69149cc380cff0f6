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

from ..errors import DataError
from ..model.families import Family
from ..types import Item, Role
from .images import load_image, name_of
from .prompts import INSTRUCTION, MARKS, TEXT, PromptSet, render

_STEP = 32  # pixels by which sizes are told apart where only trying tells how many tokens a picture becomes


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
        self.placeholders = sorted(token for token in tokens if token)
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
            batch = self.batch(texts, pictures)
        except (ValueError, TypeError) as error:
            raise self._named(items, texts, pictures) or error from error
        if self.content:
            batch["content_mask"] = self._content_mask(items, batch)
        return batch

    def batch(self, texts: list[str], pictures: list[list[Image.Image]]) -> dict[str, Tensor]:
        """Rendered prompts and the pictures of each -> model input, left-padded; all have pictures or none has."""
        options = {"padding": True, "return_tensors": "pt", "add_special_tokens": self._add_special_tokens}
        if not any(pictures) and self.family.texts_apart:
            types = "token_type_ids" in self.processor.model_input_names
            return dict(self.processor.tokenizer(texts, return_token_type_ids=types, **options))
        batch = dict(self.processor(text=texts, images=pictures if any(pictures) else None, **options))
        batch.pop("labels", None)  # PaliGemma's makes them without being asked
        return batch

    def _content_mask(self, items: Sequence[Item], batch: dict[str, Tensor]) -> Tensor:
        """[B, L] int64 of a left-padded batch: `content_of` each row."""
        mask = torch.zeros_like(batch["input_ids"])
        for row, (item, real) in enumerate(zip(items, batch["attention_mask"].bool(), strict=True)):
            mask[row, real] = self.content_of(item, batch["input_ids"][row, real])
        return mask

    def content_of(self, item: Item, ids: Tensor) -> Tensor:
        """[T] int64 for the tokens [T] of an item: 1 for a picture's and for the words, which are what the prompt alone
        does not hold."""
        mask = (
            torch.isin(ids, torch.tensor(self.processor.image_token_ids))
            if item.images
            else torch.zeros_like(ids).bool()
        )
        tail = _after_pictures(ids, mask).tolist()
        for bare in self._without_words(item):
            start, end = _inserted(tail, bare)
            mask[len(ids) - len(tail) + start : len(ids) - len(tail) + end] = True
        return mask.long()

    def _without_words(self, item: Item) -> list[list[int]]:
        """The tokens after the last picture of the item's prompt without its words, or without each of its two."""
        marks = MARKS.get(item.role, ())
        if len(marks) < 2:
            return [self._bare(item.role, len(item.images))]
        given = {TEXT: item.text, INSTRUCTION: item.words}
        texts = [self.filled(item.role, 0, {**given, mark: ""}) for mark in marks]
        return [self.batch([text], [[]])["input_ids"][0].tolist() for text in texts]

    def prepared(self, item: Item) -> tuple[Item, int]:
        """The item with its pictures decoded, and how many tokens it will take.

        Raises ImageError for an unreadable picture, DataError for one that this model cannot take and for words that
        hold its image token.
        """
        pictures = [load_image(image) for image in item.images]
        words = self.render(item)
        if not pictures:
            return item, self.batch([words], [[]])["input_ids"].shape[1]
        try:
            more = self._picture_tokens(tuple(picture.size for picture in pictures))
        except (ValueError, TypeError) as error:
            raise self._named([item], [words], [pictures]) or error from error
        return replace(item, image=pictures), len(self.tokens([words])[0]) + more

    def picture_tokens(self, width: int, height: int) -> int:
        """About how many tokens a picture becomes; by the processor's own arithmetic where it has one that works."""
        try:
            try:
                counted = self.processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
                return int(counted["num_image_tokens"][0])
            except (AttributeError, TypeError, KeyError):  # LLaVA's, say, fails where the tower crops nothing
                across, down = (max(side // _STEP, 1) * _STEP for side in (width, height))
                return self._picture_tokens(((across, down),))
        except (ValueError, TypeError):  # a picture that the model cannot take: who reads it is told so
            return 0

    def _tokens_of_pictures(self, sizes: tuple[tuple[int, int], ...]) -> int:
        text = self.filled("image", len(sizes), {})
        batch = self.batch([text], [[Image.new("RGB", size) for size in sizes]])
        return batch["input_ids"].shape[1] - len(self.tokens([text])[0])

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of rendered prompts, a picture's placeholder counting as one."""
        if not texts:
            return []  # which a tokenizer does not take
        return self.processor.tokenizer(list(texts), add_special_tokens=self._add_special_tokens)["input_ids"]

    def tail(self, text: str, pictures: list[Image.Image]) -> list[int]:
        """The tokens after the last picture of a rendered prompt, as the processor makes them."""
        batch = self.batch([text], [pictures])
        ids, real = batch["input_ids"][0], batch["attention_mask"][0].bool()
        shown = torch.isin(ids, torch.tensor(self.processor.image_token_ids)) if pictures else ~real
        return _after_pictures(ids, shown).tolist()

    def render(self, item: Item) -> str:
        """The whole prompt of an item as the tokenizer gets it, with the placeholders of its pictures."""
        return self.filled(item.role, len(item.images), {TEXT: item.text or item.words, INSTRUCTION: item.words})

    def filled(self, role: Role, images: int, words: dict[str, str | None]) -> str:
        """A role's whole prompt with words in the place of its marks."""
        marks = "|".join(map(re.escape, MARKS.get(role, ())))
        template = self._template(role, images)
        # in one pass, since the user's words may hold a mark
        return re.sub(marks, lambda mark: self._checked(words[mark[0]]), template) if marks else template

    def _named(self, items: Sequence[Item], texts: list[str], pictures: list[list[Image.Image]]) -> DataError | None:
        """The error of the first input that the processor refuses by itself."""
        for item, text, shown in zip(items, texts, pictures, strict=True):
            try:
                self.batch([text], [shown])
            except (ValueError, TypeError) as error:
                what = ", ".join(map(name_of, item.images)) or repr((item.words or "")[:60])
                return DataError(f"{what} cannot be read by this model: {str(error).strip().splitlines()[0]}")
        return None

    def _checked(self, words: str) -> str:
        for token in self.placeholders:
            if token in words:
                raise DataError(f"the words {words.strip()[:60]!r} hold the model's image token {token}; take it out")
        return words.strip()

    def _bare_tail(self, role: Role, images: int) -> list[int]:
        """The tokens after the last picture of a prompt without words."""
        text = self.filled(role, images, dict.fromkeys(MARKS.get(role, ()), ""))
        return self.tail(text, [Image.new("RGB", (64, 64))] * images)


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
