"""Which tokens of an input are pooled: all, or a part of them that a setting names.

What a prompt says of itself is told from what stands in it by the characters that each token stands for. The tokens of
the same prompt without the user's words do not tell: there a tokenizer may make one token of what stands on either side
of them, and words that begin as the prompt goes on look like the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, ModelError
from .images import name_of
from .prompts import TASK, WORDS, words_of

if TYPE_CHECKING:
    from ..model.pooling import Pooling
    from ..types import Item
    from .item_processor import ItemProcessor

ALL, CONTENT, PICTURES, WITHOUT_TASK = "all", "content", "pictures", "without_task"
CONTENT_PICTURES, CONTENT_WORDS = "content_pictures", "content_words"
AT, BEFORE = "at", "before"
_KINDS = (ALL, CONTENT, CONTENT_PICTURES, CONTENT_WORDS, PICTURES, WITHOUT_TASK)
_OF_CONTENT = (CONTENT, CONTENT_PICTURES, CONTENT_WORDS)
_BY_CONTENT: tuple[Pooling, ...] = ("mean", "multi")  # poolings that take content where nothing is said
_UP_TO = {AT: 1, BEFORE: 0}  # tokens that are pooled from the named one on
# by which families mark where a picture begins and ends
_AROUND = (
    "<|vision_start|>", "<|vision_end|>", "<|vision_bos|>", "<|vision_eos|>", "<start_of_image>", "<end_of_image>",
    "<img>", "</img>", "<fake_token_around_image>", "<|image>", "<image|>",
)  # fmt: skip
_SHOWN = 60
Span = tuple[int, int]
_OfSpan = Callable[[Sequence[Span], int, int], Span]


def check_pooled(pooled: str) -> None:
    """Raise ConfigError for a part of the tokens that does not exist."""
    kind, _, token = pooled.partition(" ") if isinstance(pooled, str) else ("", "", "")
    if pooled not in _KINDS and not (kind in _UP_TO and token and token == token.strip()):
        raise ConfigError(
            f"pooled is {pooled!r}, which are no tokens; give {', '.join(_KINDS)}, '{AT} TOKEN' or '{BEFORE} TOKEN'"
        )


def pooled_by_default(pooling: Pooling) -> str:
    """Return which tokens a pooling takes where that is not said: a mean, and one vector a token, those that say
    something of this input."""
    return CONTENT if pooling in _BY_CONTENT else ALL


def takes_content(pooled: str | None) -> bool:
    """Return whether what is pooled is of this input, and nothing of the prompt; None is the default of `multi`."""
    return pooled is None or pooled in _OF_CONTENT


class PooledTokens:
    """The part of an `ItemProcessor`'s inputs that is pooled."""

    def __init__(self, items: ItemProcessor, pooled: str = ALL):
        """Take the inputs of `items`.

        Args:
            items: what makes the inputs.
            pooled: "all" tokens; "content", those of pictures and of the user's words; "content_pictures" and
                "content_words", one of the two, the other where an input has none; "pictures", from the first token
                of the pictures to the last, with the marks of their beginning and end, and all of an input without
                pictures (jina-embeddings-v4's); "without_task", all but the task (MM-Embed's, U-MARVEL's); "at TOKEN",
                up to the last such token; "before TOKEN", up to the one before it (LamRA's).

        Raises ConfigError for another, and for a token that the tokenizer does not have.
        """
        check_pooled(pooled)
        self._items, self.pooled = items, pooled
        self._kind, _, self._token = pooled.partition(" ")
        self._number = self._number_of(self._token) if self._token else -1
        finders: dict[str, Callable[[Item, Tensor], Tensor]] = {
            ALL: self._everything,
            CONTENT: self._content,
            CONTENT_PICTURES: self._content_pictures,
            CONTENT_WORDS: self._content_words,
            PICTURES: self._pictures,
            WITHOUT_TASK: self._without_task,
        }
        self._find = finders.get(self._kind, self._up_to)

    @property
    def all(self) -> bool:
        """Whether all tokens are pooled, so that no mask is needed."""
        return self._kind == ALL

    def mask(self, items: Sequence[Item], batch: Mapping[str, Tensor]) -> Tensor:
        """Return [B, L] int64 of a padded batch: 1 for the tokens that are pooled. Raises as `of` does."""
        mask = torch.zeros_like(batch["input_ids"])
        for row, (item, real) in enumerate(zip(items, batch["attention_mask"].bool(), strict=True)):
            mask[row, real] = self.of(item, batch["input_ids"][row, real])
        return mask

    def of(self, item: Item, ids: Tensor) -> Tensor:
        """Return [T] int64 for the tokens [T] of an item: 1 for those that are pooled.

        Raises DataError for an item without the token that is looked for, ModelError where a processor or a tokenizer
        does not tell which tokens are whose.
        """
        mask = self._find(item, ids)
        if self._kind in _OF_CONTENT and not mask.any():
            raise DataError(
                f"{(item.words or '')[:_SHOWN]!r} has no token to pool ({self.pooled}): give a picture, or words"
            )
        return mask

    def _everything(self, item: Item, ids: Tensor) -> Tensor:
        return torch.ones_like(ids)

    def _content(self, item: Item, ids: Tensor) -> Tensor:
        mask = self._shown(ids, bool(item.images)).long()
        slot = self._items.prompts.asked(item)[0]
        for first, last in self._runs(item, ids, WORDS[slot], _touching):
            mask[first:last] = 1
        return mask

    def _content_pictures(self, item: Item, ids: Tensor) -> Tensor:
        shown = self._shown(ids, bool(item.images)).long()
        return shown if shown.any() else self._content(item, ids)

    def _content_words(self, item: Item, ids: Tensor) -> Tensor:
        content = self._content(item, ids)
        words = content * ~self._shown(ids, bool(item.images))
        return words if words.any() else content

    def _pictures(self, item: Item, ids: Tensor) -> Tensor:
        """Return the tokens from the first to the last of the pictures, with a mark on either side."""
        places = self._shown(ids, bool(item.images)).nonzero()
        if not len(places):
            return torch.ones_like(ids)
        first, last = int(places[0]), int(places[-1]) + 1
        first -= first > 0 and int(ids[first - 1]) in self._around
        last += last < len(ids) and int(ids[last]) in self._around
        mask = torch.zeros_like(ids)
        mask[first:last] = 1
        return mask

    def _without_task(self, item: Item, ids: Tensor) -> Tensor:
        mask = torch.ones_like(ids)
        for first, last in self._runs(item, ids, (TASK,), _within):
            mask[first:last] = 0
        return mask

    def check(self, item: Item, tokens: Sequence[int]) -> None:
        """Raise DataError for an item whose prompt, of these tokens, lacks the one that is looked for."""
        if self._token:
            self._up_to(item, torch.tensor(tokens))

    def after_last(self, ids: Tensor, pictures: bool) -> Tensor:
        """Return the tokens behind the last of the pictures, or all where there are none: [L] -> [T] int64."""
        places = self._shown(ids, pictures).nonzero()
        return ids[int(places[-1]) + 1 :] if len(places) else ids

    def _up_to(self, item: Item, ids: Tensor) -> Tensor:
        places = torch.eq(ids, self._number).nonzero()
        end = int(places[-1]) + _UP_TO[self._kind] if len(places) else 0
        if not end:
            what = ", ".join(map(name_of, item.images)) or repr((item.words or "")[:_SHOWN])
            raise DataError(
                f"what is asked of {what} holds no {self._token} with a token to pool ({self.pooled}); give prompts "
                "that do, or pool otherwise"
            )
        mask = torch.zeros_like(ids)
        mask[:end] = 1
        return mask

    def _number_of(self, token: str) -> int:
        tokenizer = self._items.processor.tokenizer
        number = tokenizer.convert_tokens_to_ids(token)
        if number is None or tokenizer.convert_ids_to_tokens(number) != token:
            raise ConfigError(
                f"pooled is {self.pooled!r}, and the tokenizer of this model has no token {token!r}; name one that it "
                "has, or add it"
            )
        return number

    def _shown(self, ids: Tensor, pictures: bool) -> Tensor:
        """Return [T] bool: which of the tokens [T] stand for a picture."""
        if not pictures:
            return torch.zeros_like(ids).bool()
        return torch.isin(ids, torch.tensor(self._items.processor.image_token_ids))

    @cached_property
    def _around(self) -> frozenset[int]:
        tokenizer = self._items.processor.tokenizer
        numbers = tokenizer.convert_tokens_to_ids(list(_AROUND))
        return frozenset(numbers) - {None, tokenizer.unk_token_id}

    def _runs(self, item: Item, ids: Tensor, marks: Sequence[str], of_span: _OfSpan) -> list[Span]:
        """Return where in the tokens [T] of an item stands what is in the place of marks. `of_span` tells which tokens
        are those of a span of characters."""
        text, places = self._places(item, marks)
        if not places:
            return []
        tokens, spans = self._spans(text)
        runs = [of_span(spans, *place) for place in places]
        return [self._in_input(item, ids.tolist(), tokens, *run) for run in runs if run[0] < run[1]]

    def _places(self, item: Item, marks: Sequence[str]) -> tuple[str, list[Span]]:
        """Return the prompt of an item, and where in it stands what is in the place of marks; a task with its form."""
        prompts, text, places = self._items.prompts, "", []
        for mark, piece in self._items.pieces(prompts.asked(item), len(item.images), words_of(item)):
            if mark in marks:
                places.append((mark, len(text), len(text) + len(piece)))
            text += piece
        ahead, _, behind = prompts.task_form.partition(TASK)

        def whole(mark: str, start: int, end: int) -> Span:
            if mark != TASK:
                return start, end
            # a chat template may have taken white space away
            before, after = text[:start].endswith(ahead), text.startswith(behind, end)
            return start - len(ahead) * before, end + len(behind) * after

        return text, [whole(*place) for place in places]

    def _spans(self, text: str) -> tuple[list[int], list[Span]]:
        """Return the tokens of a prompt as the tokenizer alone makes them, and the characters that each stands for."""
        if not self._items.processor.tokenizer.is_fast:
            raise ModelError(
                "the tokenizer of this model does not tell where its tokens stand, so that those to pool cannot be "
                f"found ({self.pooled}); pool otherwise"
            )
        return self._items.spans(text)

    def _in_input(self, item: Item, ids: list[int], tokens: list[int], first: int, last: int) -> Span:
        """Return where some tokens of a prompt stand in an item's input, in which a picture takes more than one, and
        which a processor may begin and end with tokens of its own."""
        marked = [at for at, number in enumerate(tokens) if item.images and number in self._placeholders]
        # up to the first picture, or behind the last, both are alike
        if marked and last <= marked[0]:
            head = tokens[: marked[0]]
            starts = (at for at in range(len(ids) - len(head) + 1) if ids[at : at + len(head)] == head)
            shift = next(starts, None)
        else:
            shift = _shift_behind(ids, tokens, max(marked, default=-1) + 1, first)
        if shift is None:
            raise ModelError(
                "the processor of this model makes other tokens of a prompt than its tokenizer, so that those to pool "
                f"cannot be found ({self.pooled}); pool otherwise"
            )
        return first + shift, last + shift

    @cached_property
    def _placeholders(self) -> frozenset[Any]:
        return frozenset(self._items.processor.tokenizer.convert_tokens_to_ids(self._items.placeholders)) - {None}


def _shift_behind(ids: list[int], tokens: list[int], start: int, first: int) -> int | None:
    """Return how much further behind tokens of a prompt, those from `start` on, which no picture follows, stand in an
    input; None where they do not, or where the `first` that is looked for is none of them."""
    at_end = len(ids) - len(tokens)
    if first < start or ids[first + at_end :] == tokens[first:]:
        return at_end if first >= start else None
    tail = tokens[start:]
    places = range(len(ids) - len(tail), -1, -1)
    return next((place - start for place in places if ids[place : place + len(tail)] == tail), None)


def _within(spans: Sequence[Span], start: int, end: int) -> Span:
    """Return the first of the tokens that stand for nothing but characters from `start` to `end`, and the one behind
    the last."""
    # a tokenizer may say of white space that it stands for no character
    inside = [at for at, (first, last) in enumerate(spans) if start <= first <= last <= end and last > start]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _touching(spans: Sequence[Span], start: int, end: int) -> Span:
    """Return the same of the tokens that stand for any of these characters, of which there may be none."""
    found = [at for at, (first, last) in enumerate(spans) if first < end and last > start and start < end]
    return (found[0], found[-1] + 1) if found else (0, 0)
