"""From items to model input: pictures read and resized, prompts filled, one padded batch."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property, lru_cache, partial
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import DataError, first_line
from ..model.families import Family
from ..model.heads.picture_places import PicturePlaces
from ..types import Item
from .images import glance, load_image, name_of
from .lengths import Lengths, TokenLimit
from .pooled_tokens import ALL, PooledTokens
from .prompts import KEPT_TASKS, TASK, TEXT, WORDS, PromptSet, Slot, words_of
from .rendering import FilledPrompt, begins_itself, check_beginning, render
from .resize import Resize, Size
from .words import Words, placeholders_of

PaddingSide = Literal["left", "right"]
# what a processor ends in that gets a picture, or a number of them, that it is not made for
_REFUSALS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError)
_BLANK = (64, 64)
_NO_LIMITS = {"min_pixels": 1, "max_pixels": 1 << 40}  # to a picture's size, by the names of Qwen's processors
_STEP = 32  # pixels to which sizes are rounded where only trying shows how many tokens a picture becomes


class ItemProcessor:
    """A Hugging Face processor that is called on items; those with pictures and those without apart."""

    def __init__(
        self,
        processor: Any,
        prompts: PromptSet,
        family: Family | None = None,
        pooled: str = ALL,
        limit: TokenLimit | None = None,
        resize: Resize | None = None,
        padding_side: PaddingSide = "left",
        jpeg_side: int | None = None,
        places: PicturePlaces | None = None,
    ):
        """Wrap a processor.

        Args:
            processor: a Hugging Face processor; it pads on `padding_side` from now on.
            prompts: the prompt set.
            family: of its model, by default an ordinary one.
            pooled: which tokens are pooled (pooled_tokens.py). But for all, batches get a `content_mask` of them.
            limit: of an input's tokens, by default none.
            resize: what is done to pictures first.
            padding_side: where batches are padded.
            jpeg_side: as of `images.load_image`, through which every picture is read here.
            places: those of pictures, where a token learner makes as many tokens of them; not in `batch`.

        Raises ConfigError for `pooled` that does not exist, or names no token.
        """
        self.processor, self.prompts, self.resize, self.padding_side = processor, prompts, resize, padding_side
        self.jpeg_side, self.family, self.places = jpeg_side, family or Family(), places
        self.load, self.glance = partial(load_image, jpeg_side=jpeg_side), partial(glance, jpeg_side=jpeg_side)
        processor.tokenizer.padding_side = padding_side
        self.placeholders = placeholders_of(processor)
        self.words = Words(processor.tokenizer, self.placeholders)
        self.lengths = Lengths(self, limit or TokenLimit())
        self.pooled = PooledTokens(self, pooled)
        self._picture_tokens = cache(self._tokens_of_pictures)
        self._processor_with = cache(self._with_tokenizer)
        # rendered once a prompt, since a jinja template costs more than the tokens of a short text
        self._template = cache(self._rendered)
        self._check_task = lru_cache(KEPT_TASKS)(self._refuse_marks_in)
        self._template("text", 0, False)  # a chat template that does not work is told now

    def __call__(
        self,
        items: Sequence[Item],
        prompts: Sequence[FilledPrompt | None] | None = None,
        padding_side: PaddingSide | None = None,
    ) -> dict[str, Tensor]:
        """Return a batch: input_ids and attention_mask [B, L] int64, pixels where there are pictures, and the tensors
        that the family adds.

        Either all items have pictures or none has, since processors differ in what they make of a mixture. `prompts`
        are those of the items, where they are known: texts whose tokens are known are not tokenised again. Prompts with
        pictures go to the processor, which alone knows how many placeholders their pictures take. `padding_side` is for
        this batch.

        Raises ImageError for an unreadable picture, DataError for a mixture, for a picture that the model cannot take,
        for an input of more tokens than the limit and one without the token that is to be pooled.
        """
        side = padding_side or self.padding_side
        prompts = prompts or [None] * len(items)
        pictures = list(map(self._decoded, items))
        if any(pictures) != all(pictures):
            raise DataError("a batch holds inputs with and without pictures; process the two kinds apart")
        tokens = [prompt.tokens for prompt in prompts if prompt]
        if len(tokens) < len(items) or any(pictures) or self._added_to_texts is None:
            batch = self._processed(items, self._texts(items, prompts), pictures, side)
        else:
            batch = self._padded(tokens, self._added_to_texts, side)
        self.lengths.check(items, batch["attention_mask"])
        if not self.pooled.all:
            batch["content_mask"] = self.pooled.mask(items, batch)
        return batch

    def batch(
        self, texts: list[str], pictures: list[list[Image.Image]], padding_side: PaddingSide = "left",
        begun: bool | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return rendered prompts and the pictures of each as model input: input_ids and attention_mask [B, L] int64,
        and the other tensors of the processor. All have pictures or none has. `begun`: whether the tokenizer is to put
        no start token before them, by default where they write one themselves.

        Raises DataError for what the processor refuses.
        """
        try:
            return self._batch(texts, self._resized(pictures), padding_side, begun)
        except _REFUSALS as error:
            raise DataError(f"the processor of this model takes no such input: {first_line(error)}") from error

    def _batch(
        self, texts: list[str], pictures: list[list[Image.Image]], side: PaddingSide, begun: bool | None = None
    ) -> dict[str, Tensor]:
        """Return what `batch` does of pictures that are resized. Raises whatever the processor does."""
        begun = begins_itself(self.processor, texts[0]) if begun is None else begun
        options = {
            "padding": True, "padding_side": side, "return_tensors": "pt", "add_special_tokens": not begun,
        }  # fmt: skip
        tokenizer = self.words.tokenizer_for(texts)
        if not any(pictures) and self.family.texts_apart:
            types = "token_type_ids" in self.processor.model_input_names
            return dict(tokenizer(texts, return_token_type_ids=types, **options))
        processor = self.processor if tokenizer is self.processor.tokenizer else self._processor_with(tokenizer)
        batch = dict(processor(text=texts, images=pictures if any(pictures) else None, **options))
        batch.pop("labels", None)  # PaliGemma's makes them without being asked
        return batch

    def _resized(self, pictures: Sequence[Sequence[Image.Image]]) -> list[list[Image.Image]]:
        """Return pictures as they go to the processor. The only place that makes them another size, and what comes from
        it comes here no second time."""
        return [list(map(self.resize, shown)) if self.resize else list(shown) for shown in pictures]

    def prepared(self, item: Item, room: int = 0) -> tuple[Item, int]:
        """Return the item with its pictures decoded, at their own size, and its words within the limit, and how many
        tokens it takes. `room` is how many more are to fit into the limit behind it.

        Raises ImageError for an unreadable picture, DataError for one that this model cannot take and for an input of
        more tokens than the limit.
        """
        item = self.lengths.bounded(item)
        pictures = self._decoded(item)
        prompt = self.tokenise([self.render(item)])[0]
        self.pooled.check(item, prompt.tokens)
        try:
            more = self.more_tokens(prompt, tuple(picture.size for picture in pictures))
        except DataError as error:
            raise self._named([item], [prompt.text], [pictures]) or error from error
        item, prompt = self.lengths.fitted(item, prompt, more + room)
        return (replace(item, image=pictures) if pictures else item), len(prompt.tokens) + more

    def more_tokens(self, prompt: FilledPrompt, sizes: tuple[tuple[int, int], ...]) -> int:
        """Return how many tokens the processor makes beyond those of a prompt, of pictures that have such sizes before
        they are resized.

        Raises DataError for a picture that the model cannot take.
        """
        if sizes:
            return self._picture_tokens(tuple(self.resized(*size) for size in sizes))
        if self._added_to_texts is not None:
            return 0
        return self.batch([prompt.text], [[]])["input_ids"].shape[1] - len(prompt.tokens)

    def picture_tokens(self, width: int, height: int) -> int:
        """Return about how many tokens a picture of so many pixels becomes, by the processor's own arithmetic where it
        has one that works."""
        try:
            size = self.resized(width, height)
            # the arithmetic knows nothing of do_resize: it would bring a picture that is left as it is within limits
            limits = {} if getattr(self.processor.image_processor, "do_resize", True) else _NO_LIMITS
            if self.places is None:
                with suppress(AttributeError, TypeError, KeyError):  # LLaVA's, say, fails where the tower crops nothing
                    counted = self.processor._get_num_multimodal_tokens(image_sizes=[size[::-1]], **limits)
                    return int(counted["num_image_tokens"][0])
            across, down = (max(side // _STEP, 1) * _STEP for side in size)
            return self._picture_tokens((size if self.resize else (across, down),))
        except (*_REFUSALS, DataError):  # a picture that the model cannot take: reading it raises the error
            return 0

    def resized(self, width: int, height: int) -> Size:
        """Return the size of a picture as it goes to the processor. Raises DataError for one that has none."""
        try:
            return self.resize.size(width, height) if self.resize else (width, height)
        except ValueError as error:
            raise DataError(f"a picture of {width} x {height} pixels cannot be read by this model: {error}") from error

    def tokenise(self, texts: Sequence[str]) -> list[FilledPrompt]:
        """Return rendered prompts with their tokens; texts that are equal, as of pictures alone, are tokenised once."""
        distinct = list(dict.fromkeys(texts))
        prompts = {
            text: FilledPrompt(text, tuple(ids)) for text, ids in zip(distinct, self.tokens(distinct), strict=True)
        }
        return [prompts[text] for text in texts]

    def tokens(self, texts: Sequence[str], begun: bool | None = None) -> list[list[int]]:
        """Return the tokens of rendered prompts; a picture's placeholder counts as one. `begun` is as of `batch`."""
        if not texts:
            return []  # which a tokenizer does not take
        begun = begins_itself(self.processor, texts[0]) if begun is None else begun
        # `lengths` says what is too long
        options = {"add_special_tokens": not begun, "verbose": False}
        return self.words.tokenizer_for(texts)(list(texts), **options)["input_ids"]

    def spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the tokens of a rendered prompt as `tokens` does, and which of its characters each stands for."""
        begun = begins_itself(self.processor, text)
        options = {"add_special_tokens": not begun, "verbose": False, "return_offsets_mapping": True}
        found = self.words.tokenizer_for([text])(text, **options)
        return found["input_ids"], found["offset_mapping"]

    def processed_suffix(self, text: str, images: int) -> list[int]:
        """Return the tokens after the last picture of a rendered prompt, or all, as the processor makes them of so many
        small blank pictures."""
        batch = self.batch([text], [[Image.new("RGB", _BLANK)] * images])
        ids = batch["input_ids"][0][batch["attention_mask"][0].bool()]
        return self.pooled.after_last(ids, bool(images)).tolist()

    def render(self, item: Item) -> str:
        """Return the whole prompt of an item as `batch` and `tokens` take it, with the placeholders of its pictures.

        Raises DataError as `Words.written` does, and for a task that the prompts have no place for, or that spells a
        token of the model's own.
        """
        return self.filled(self.prompts.asked(item), len(item.images), words_of(item))

    def filled(self, asked: tuple[Slot, str], images: int, words: Mapping[str, str]) -> str:
        """Return a whole prompt with its task (`PromptSet.asked`), and words in the place of its other marks."""
        return "".join(text for _, text in self.pieces(asked, images, words))

    def pieces(self, asked: tuple[Slot, str], images: int, words: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Yield the parts of what `filled` returns, each behind the mark in whose place it stands; the prompt's own
        behind none."""
        slot, task = asked
        self._check_task(task)
        template, marks = self._template(slot, images, bool(task)), (*WORDS[slot], *([TASK] if task else []))
        end = 0
        # in one pass, since the user's words may hold a mark
        for at in re.finditer("|".join(map(re.escape, marks)), template) if marks else ():
            yield "", template[end : at.start()]
            end = at.end()
            if at[0] == TASK:
                yield TASK, task
            else:
                given = words[at[0]].strip() if self.prompts.strip else words[at[0]]
                yield at[0], self.words.written(given, template[: at.start()])
        yield "", template[end:]

    def _rendered(self, slot: Slot, images: int, tasked: bool) -> str:
        text = render(self.processor, self.prompts, slot, images, tasked)
        if (slot, tasked) != ("text", False):
            check_beginning(self.processor, text, self._template("text", 0, False), slot)
        return text

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

    def _padded(
        self, rows: Sequence[Sequence[int]], added: Mapping[str, torch.dtype], side: PaddingSide
    ) -> dict[str, Tensor]:
        """Return the tokens of texts as `batch` lays them out."""
        pad, tokens = self.processor.tokenizer.pad_token_id, list(map(torch.tensor, rows))
        ids = pad_sequence(tokens, batch_first=True, padding_value=pad, padding_side=side)
        # a token may be that of padding: GME's last one, say
        ones = list(map(torch.ones_like, tokens))
        mask = pad_sequence(ones, batch_first=True, padding_value=0, padding_side=side)
        zeros = {name: torch.zeros(ids.shape, dtype=dtype) for name, dtype in added.items()}
        return {"input_ids": ids, "attention_mask": mask, **zeros}

    def _processed(
        self, items: Sequence[Item], texts: list[str], pictures: list[list[Image.Image]], side: PaddingSide
    ) -> dict[str, Tensor]:
        try:
            batch = self.batch(texts, pictures, side)
        except DataError as error:
            raise self._named(items, texts, pictures) or error from error
        if self.places is None or not any(pictures):
            return batch
        self.places.check([list(map(name_of, item.images)) for item in items], batch["input_ids"])
        return self.places.set(batch, side)

    def _named(self, items: Sequence[Item], texts: list[str], pictures: list[list[Image.Image]]) -> DataError | None:
        """Return the error of the first input that the processor refuses by itself."""
        for item, text, shown in zip(items, texts, pictures, strict=True):
            try:
                self._batch([text], self._resized([shown]), "left")
            except _REFUSALS as error:
                what = ", ".join(map(name_of, item.images)) or repr((item.words or "")[:60])
                return DataError(f"{what} cannot be read by this model: {first_line(error)}")
        return None

    def _tokens_of_pictures(self, sizes: tuple[Size, ...]) -> int:
        """Return how many tokens pictures take beside their placeholders, of sizes as they go to the processor."""
        text = self.filled(("image", ""), len(sizes), {})
        try:
            batch = self._batch([text], [[Image.new("RGB", size) for size in sizes]], "left")
        except _REFUSALS as error:
            raise DataError(f"the processor of this model takes no such picture: {first_line(error)}") from error
        batch = self.places.set(batch, "left") if self.places else batch
        return batch["input_ids"].shape[1] - len(self.tokens([text])[0])

    def _with_tokenizer(self, tokenizer: Any) -> Any:
        """Return the processor with another tokenizer."""
        processor = copy.copy(self.processor)
        processor.tokenizer = tokenizer
        return processor

    def _decoded(self, item: Item) -> list[Image.Image]:
        return [self.load(image) for image in item.images]
