"""The tokens of inputs behind their last picture; inputs with the same before that can share the work on it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ..inputs.prompts import KEPT_TASKS, WORDS

if TYPE_CHECKING:
    from ..inputs.item_processor import ItemProcessor
    from ..inputs.prompts import Slot
    from ..inputs.rendering import FilledPrompt
    from ..thoughts.writer import Thought
    from ..types import Item

_PROBE = "a"  # stands for the user's words: where they are empty, line breaks around them become one token


@dataclass(frozen=True)
class Suffix:
    """The tokens of a prompt behind its last picture.

    Args:
        prefix: the tokens before and between the placeholders of the pictures; none where there is no picture.
        tokens: those behind the last picture, or all, as the processor makes them; at least one.
    """

    prefix: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class _Learned:
    """What a processor makes of the part of a prompt behind its last picture.

    Args:
        added: tokens that it puts in front.
        skipped: how many of the tokenizer's tokens these replace.
        following: the token after those, which the user's words must leave as it is.
    """

    added: tuple[int, ...]
    skipped: int
    following: int


class Suffixes:
    """The suffixes of prompts, from the tokenizer's tokens alone where these are known to give what the processor does.

    A processor may write words of its own behind a picture (an end mark, a line break); what these are is learned from
    one small blank picture a prompt.
    """

    def __init__(self, items: ItemProcessor):
        """Learn from `items`, a prompt at a time, when the first item that it is asked about comes."""
        self._items = items
        ids = items.processor.tokenizer.convert_tokens_to_ids(items.placeholders)
        self._placeholders = {number for number in ids if number is not None}
        self._learned = lru_cache(KEPT_TASKS)(self._learn)

    def __call__(self, item: Item, prompt: FilledPrompt) -> Suffix | None:
        """Return the suffix of an item's prompt; None where it is not known without asking the processor."""
        learned = self._learned(self._items.prompts.asked(item), len(item.images))
        if learned is None:
            return None
        prefix, suffix = self._split(prompt.tokens)
        # words may merge with the prompt into other tokens than the probe did: then nothing is known
        if suffix[learned.skipped : learned.skipped + 1] != (learned.following,):
            return None
        return Suffix(prefix, learned.added + suffix[learned.skipped :])

    def _split(self, tokens: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tokens up to the last placeholder, and those behind it."""
        start = max((at for at, number in enumerate(tokens, 1) if number in self._placeholders), default=0)
        return tokens[:start], tokens[start:]

    def _learn(self, asked: tuple[Slot, str], images: int) -> _Learned | None:
        """Compare what the processor and the tokenizer make of a probe; None where they end differently."""
        text = self._items.filled(asked, images, dict.fromkeys(WORDS[asked[0]], _PROBE))
        processed = tuple(self._items.processed_suffix(text, images))
        _, plain = self._split(tuple(self._items.tokens([text])[0]))
        same = 0
        while same < min(len(processed), len(plain)) and processed[-1 - same] == plain[-1 - same]:
            same += 1
        if not same:
            return None
        skipped = len(plain) - same
        return _Learned(processed[: len(processed) - same], skipped, plain[skipped])


@dataclass(frozen=True)
class Input:
    """One of the different inputs of a list.

    Args:
        item: the first one in the list.
        pictures: a key of each picture's content, in order.
        prompt: its whole prompt; None where the processor is to render and tokenise it.
        suffix: None where it is not known beforehand, or shares nothing.
        length: its tokens, those of its pictures about.
        pixels: of its pictures, before the model's processor makes them smaller.
        thought: what it thought before, where it thinks first and that is known.
    """

    item: Item
    pictures: tuple[Hashable, ...] = ()
    prompt: FilledPrompt | None = None
    suffix: Suffix | None = None
    length: int = 0
    pixels: int = 0
    thought: Thought | None = None


def suffixes_of(inputs: Sequence[Input]) -> list[Suffix]:
    """Return the suffixes that are known of some inputs."""
    return [one.suffix for one in inputs if one.suffix is not None]


def shared_length(suffixes: Sequence[Suffix]) -> int:
    """Return how many tokens suffixes begin with alike; each keeps at least one of its own."""
    most = min(len(suffix.tokens) for suffix in suffixes) - 1
    for at, tokens in enumerate(zip(*(suffix.tokens for suffix in suffixes), strict=False)):
        if at == most or len(set(tokens)) > 1:
            return at
    return most
