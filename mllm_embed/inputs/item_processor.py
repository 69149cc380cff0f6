"""From items to model input: pictures read, prompts filled, one left-padded batch."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import DataError, first_line
from ..model.families import Family
from ..types import Item
from .images import load_image, name_of
from .lengths import Lengths, TokenLimit
from .prompts import INSTRUCTION, TASK, TEXT, WORDS, PromptSet, Slot
from .rendering import render
from .words import Words

# what a processor ends in that gets a picture, or a number of them, that it is not made for
_REFUSALS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError)
_STEP = 32  # pixels to which sizes are rounded where only trying shows how many tokens a picture becomes


@dataclass(frozen=True)
class FilledPrompt:
    """A role's prompt with an item's words in it.

    Args:
        text: as the processor takes it, with a placeholder for each picture.
        tokens: as the tokenizer alone makes them; a picture's placeholder counts as one.
    """

    text: str
    tokens: tuple[int, ...]


class ItemProcessor:
    """A Hugging Face processor that is called on items; those with pictures and those without apart."""

    def __init__(
        self,
        processor: Any,
        prompts: PromptSet,
        family: Family | None = None,
        content: bool = False,
        limit: TokenLimit | None = None,
    ):
        """Wrap the processor of a model of `family`, by default an ordinary one; it pads on the left from now on.

        With `content` batches get a `content_mask`: which tokens are the picture's and the user's words. `limit` is
        that of an input's tokens, by default none.
        """
        self.processor, self.prompts, self.content = processor, prompts, content
        self.family = family or Family()
        processor.tokenizer.padding_side = "left"
        self.placeholders = _placeholders(processor)
        self.words = Words(processor.tokenizer, self.placeholders)
        self.lengths = Lengths(self, limit or TokenLimit())
        self._bare = cache(self._without_any_words)
        self._picture_tokens = cache(self._tokens_of_pictures)
        self._processor_with = cache(self._with_tokenizer)
        # rendered once a prompt, since a jinja template costs more than the tokens of a short text
        self._template = cache(lambda slot, images, tasked: render(processor, prompts, slot, images, tasked))
        self._check_task = cache(self._refuse_marks_in)
        bos = processor.tokenizer.bos_token
        # a template that writes the start token itself must not get a second one
        self._add_special_tokens = not (bos and self._template("text", 0, False).startswith(bos))

    def __call__(
        self, items: Sequence[Item], prompts: Sequence[FilledPrompt | None] | None = None
    ) -> dict[str, Tensor]:
        """Return a batch: input_ids and attention_mask [B, L] int64, pixels where there are pictures, and the tensors
        that the family adds.

        Either all items have pictures or none has, since processors differ in what they make of a mixture. `prompts`
        are those of the items, where they are known: texts whose tokens are known are not tokenised again. Prompts with
        pictures go to the processor, which alone knows how many placeholders their pictures take.

        Raises ImageError for an unreadable picture, DataError for a mixture, for a picture that the model cannot take
        and for an input of more tokens than the limit.
        """
        prompts = prompts or [None] * len(items)
        pictures = list(map(_decoded, items))
        if any(pictures) != all(pictures):
            raise DataError("a batch holds inputs with and without pictures; process the two kinds apart")
        tokens = [prompt.tokens for prompt in prompts if prompt]
        if len(tokens) < len(items) or any(pictures) or self._added_to_texts is None:
            batch = self._processed(items, self._texts(items, prompts), pictures)
        else:
            batch = self._padded(tokens, self._added_to_texts)
        self.lengths.check(items, batch["attention_mask"])
        if self.content:
            batch["content_mask"] = self._content_mask(items, batch)
        return batch

    def batch(self, texts: list[str], pictures: list[list[Image.Image]]) -> dict[str, Tensor]:
        """Return rendered prompts and the pictures of each as model input, left-padded: input_ids and attention_mask
        [B, L] int64, and the other tensors of the processor. All have pictures or none has.

        Raises DataError for what the processor refuses.
        """
        try:
            return self._batch(texts, pictures)
        except _REFUSALS as error:
            raise DataError(f"the processor of this model takes no such input: {first_line(error)}") from error

    def _batch(self, texts: list[str], pictures: list[list[Image.Image]]) -> dict[str, Tensor]:
        options = {"padding": True, "return_tensors": "pt", "add_special_tokens": self._add_special_tokens}
        tokenizer = self.words.tokenizer_for(texts)
        if not any(pictures) and self.family.texts_apart:
            types = "token_type_ids" in self.processor.model_input_names
            return dict(tokenizer(texts, return_token_type_ids=types, **options))
        processor = self.processor if tokenizer is self.processor.tokenizer else self._processor_with(tokenizer)
        batch = dict(processor(text=texts, images=pictures if any(pictures) else None, **options))
        batch.pop("labels", None)  # PaliGemma's makes them without being asked
        return batch

    def content_of(self, item: Item, ids: Tensor) -> Tensor:
        """Return [T] int64 for the tokens [T] of an item: 1 for a picture's and for the words, which are what the
        prompt alone does not hold."""
        shown = self._shown(item.images, ids)
        suffix = _after_last(ids, shown).tolist()
        start = len(ids) - len(suffix)
        mask = shown.clone()
        for bare in self._without_words(item):
            first, last = _inserted(suffix, bare)
            mask[start + first : start + last] = True
        return mask.long()

    def prepared(self, item: Item) -> tuple[Item, int]:
        """Return the item with its pictures decoded and its words within the limit, and how many tokens it takes.

        Raises ImageError for an unreadable picture, DataError for one that this model cannot take and for an input of
        more tokens than the limit.
        """
        item = self.lengths.bounded(item)
        pictures = _decoded(item)
        prompt = self.tokenise([self.render(item)])[0]
        try:
            more = self.more_tokens(prompt, tuple(picture.size for picture in pictures))
        except DataError as error:
            raise self._named([item], [prompt.text], [pictures]) or error from error
        item, prompt = self.lengths.fitted(item, prompt, more)
        return (replace(item, image=pictures) if pictures else item), len(prompt.tokens) + more

    def more_tokens(self, prompt: FilledPrompt, sizes: tuple[tuple[int, int], ...]) -> int:
        """Return how many tokens the processor makes beyond those of a prompt, of pictures of such sizes.

        Raises DataError for a picture that the model cannot take.
        """
        if sizes:
            return self._picture_tokens(sizes)
        if self._added_to_texts is not None:
            return 0
        return self.batch([prompt.text], [[]])["input_ids"].shape[1] - len(prompt.tokens)

    def picture_tokens(self, width: int, height: int) -> int:
        """Return about how many tokens a picture of so many pixels becomes, by the processor's own arithmetic where it
        has one that works."""
        try:
            try:
                counted = self.processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
                return int(counted["num_image_tokens"][0])
            except (AttributeError, TypeError, KeyError):  # LLaVA's, say, fails where the tower crops nothing
                across, down = (max(side // _STEP, 1) * _STEP for side in (width, height))
                return self._picture_tokens(((across, down),))
        except (*_REFUSALS, DataError):  # a picture that the model cannot take: reading it raises the error
            return 0

    def tokenise(self, texts: Sequence[str]) -> list[FilledPrompt]:
        """Return rendered prompts with their tokens; texts that are equal, as of pictures alone, are tokenised once."""
        distinct = list(dict.fromkeys(texts))
        prompts = {
            text: FilledPrompt(text, tuple(ids)) for text, ids in zip(distinct, self.tokens(distinct), strict=True)
        }
        return [prompts[text] for text in texts]

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of rendered prompts; a picture's placeholder counts as one."""
        if not texts:
            return []  # which a tokenizer does not take
        options = {"add_special_tokens": self._add_special_tokens, "verbose": False}  # `lengths` says what is too long
        return self.words.tokenizer_for(texts)(list(texts), **options)["input_ids"]

    def processed_suffix(self, text: str, pictures: list[Image.Image]) -> list[int]:
        """Return the tokens after the last picture of a rendered prompt, or all, as the processor makes them."""
        batch = self.batch([text], [pictures])
        ids = batch["input_ids"][0][batch["attention_mask"][0].bool()]
        return _after_last(ids, self._shown(pictures, ids)).tolist()

    def render(self, item: Item) -> str:
        """Return the whole prompt of an item as `batch` and `tokens` take it, with the placeholders of its pictures.

        Raises DataError as `Words.written` does, and for a task that the prompts have no place for, or that spells a
        token of the model's own.
        """
        words = {TEXT: item.text or item.words or "", INSTRUCTION: item.words or ""}
        return self.filled(self.prompts.asked(item), len(item.images), words)

    def filled(self, asked: tuple[Slot, str], images: int, words: Mapping[str, str]) -> str:
        """Return a whole prompt with its task (`PromptSet.asked`), and words in the place of its other marks."""
        slot, task = asked
        self._check_task(task)
        template, marks = self._template(slot, images, bool(task)), (*WORDS[slot], *([TASK] if task else []))
        if not marks:
            return template

        def written(at: re.Match[str]) -> str:
            if at[0] == TASK:
                return task
            given = words[at[0]].strip() if self.prompts.strip else words[at[0]]
            return self.words.written(given, template[: at.start()])

        # in one pass, since the user's words may hold a mark
        return re.sub("|".join(map(re.escape, marks)), written, template)

    def _refuse_marks_in(self, task: str) -> None:
        if task and self.words.written(task) != task:
            raise DataError(
                f"the task {task[:60]!r} spells a token of the model's own, by which it knows turns, ends or pictures; "
                "take it out: pictures and turns are the prompt's to place"
            )

    def _texts(self, items: Sequence[Item], prompts: Sequence[FilledPrompt | None]) -> list[str]:
        return [prompt.text if prompt else self.render(item) for item, prompt in zip(items, prompts, strict=True)]

    @cached_property
    def _added_to_texts(self) -> dict[str, torch.dtype] | None:
        """The names and dtypes of what the processor gives texts beside ids and mask, always zeros [B, L]; None where
        that is not so, or where it makes other tokens of a text than the tokenizer."""
        text = self.filled(("text", ""), 0, {TEXT: "a"})
        batch = self.batch([text], [[]])
        ids, mask = batch.pop("input_ids"), batch.pop("attention_mask")
        zeros = all(tensor.shape == ids.shape and not tensor.any() for tensor in batch.values())
        if not zeros or not mask.all() or ids.tolist() != self.tokens([text]):
            return None
        return {name: tensor.dtype for name, tensor in batch.items()}

    def _padded(self, rows: Sequence[Sequence[int]], added: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
        """Return the tokens of texts as `batch` lays them out."""
        pad = self.processor.tokenizer.pad_token_id
        ids = pad_sequence(list(map(torch.tensor, rows)), batch_first=True, padding_value=pad, padding_side="left")
        padding = ids.shape[1] - torch.tensor(list(map(len, rows)))
        mask = (torch.arange(ids.shape[1]) >= padding[:, None]).long()
        zeros = {name: torch.zeros(ids.shape, dtype=dtype) for name, dtype in added.items()}
        return {"input_ids": ids, "attention_mask": mask, **zeros}

    def _processed(
        self, items: Sequence[Item], texts: list[str], pictures: list[list[Image.Image]]
    ) -> dict[str, Tensor]:
        try:
            return self.batch(texts, pictures)
        except DataError as error:
            raise self._named(items, texts, pictures) or error from error

    def _named(self, items: Sequence[Item], texts: list[str], pictures: list[list[Image.Image]]) -> DataError | None:
        """Return the error of the first input that the processor refuses by itself."""
        for item, text, shown in zip(items, texts, pictures, strict=True):
            try:
                self._batch([text], [shown])
            except _REFUSALS as error:
                what = ", ".join(map(name_of, item.images)) or repr((item.words or "")[:60])
                return DataError(f"{what} cannot be read by this model: {first_line(error)}")
        return None

    def _content_mask(self, items: Sequence[Item], batch: dict[str, Tensor]) -> Tensor:
        """Return [B, L] int64 of a left-padded batch: `content_of` each row."""
        mask = torch.zeros_like(batch["input_ids"])
        for row, (item, real) in enumerate(zip(items, batch["attention_mask"].bool(), strict=True)):
            mask[row, real] = self.content_of(item, batch["input_ids"][row, real])
        return mask

    def _without_words(self, item: Item) -> list[list[int]]:
        """Return the tokens after the last picture of the item's prompt without its words, or without each of its two
        in turn."""
        asked = self.prompts.asked(item)
        marks = WORDS[asked[0]]
        if len(marks) < 2:
            return [self._bare(asked, len(item.images))]
        given = {TEXT: item.text or "", INSTRUCTION: item.words or ""}
        texts = [self.filled(asked, 0, {**given, mark: ""}) for mark in marks]
        return [self.processed_suffix(text, []) for text in texts]

    def _without_any_words(self, asked: tuple[Slot, str], images: int) -> list[int]:
        text = self.filled(asked, images, dict.fromkeys(WORDS[asked[0]], ""))
        return self.processed_suffix(text, blank_pictures(images))

    def _shown(self, pictures: Sequence[object], ids: Tensor) -> Tensor:
        """Return [T] bool: which of the tokens [T] stand for a picture."""
        if not pictures:
            return torch.zeros_like(ids).bool()
        return torch.isin(ids, torch.tensor(self.processor.image_token_ids))

    def _tokens_of_pictures(self, sizes: tuple[tuple[int, int], ...]) -> int:
        text = self.filled(("image", ""), len(sizes), {})
        batch = self.batch([text], [[Image.new("RGB", size) for size in sizes]])
        return batch["input_ids"].shape[1] - len(self.tokens([text])[0])

    def _with_tokenizer(self, tokenizer: Any) -> Any:
        """Return the processor with another tokenizer."""
        processor = copy.copy(self.processor)
        processor.tokenizer = tokenizer
        return processor


def blank_pictures(count: int) -> list[Image.Image]:
    """Return small pictures to probe a processor with."""
    return [Image.new("RGB", (64, 64))] * count


def _decoded(item: Item) -> list[Image.Image]:
    return [load_image(image) for image in item.images]


def _placeholders(processor: Any) -> list[str]:
    """Return the tokens that stand for a picture or a video in a prompt."""
    named = (getattr(processor, name, None) for name in ("image_token", "video_token"))
    tokens = {*named, *processor.tokenizer.convert_ids_to_tokens(processor.image_token_ids)}
    return sorted(token for token in tokens if token)


def _after_last(ids: Tensor, marked: Tensor) -> Tensor:
    """Return the tokens behind the last one that is marked: [L] int64, [L] bool -> [T] int64."""
    places = marked.nonzero()
    return ids[int(places[-1]) + 1 :] if len(places) else ids


def _inserted(tokens: list[int], bare: list[int]) -> tuple[int, int]:
    """Return start and end of what `tokens` holds between the prefix and the suffix that it shares with `bare`."""
    shared = min(len(tokens), len(bare))
    start = next((at for at in range(shared) if tokens[at] != bare[at]), shared)
    left = shared - start
    same = next((at for at in range(left) if tokens[-1 - at] != bare[-1 - at]), left)
    return start, len(tokens) - same
