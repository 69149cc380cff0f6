"""How long an input may be, and which of its words stay where it is longer and may be cut.

Nothing is tokenised whole to find out: of words that are far too long, a part that is too long by itself will do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import ConfigError, TooLongError
from ..types import Item
from .images import name_of
from .words import check_unicode

if TYPE_CHECKING:
    from .item_processor import ItemProcessor
    from .rendering import FilledPrompt

_PART = 5  # characters a token that are looked at first
_SLACK = 64  # tokens: where a part was cut off, its last ones may be others than the whole's; and estimates err
_UNSET = 10**9  # tokens from which a tokenizer's limit means that it has none
_NEAR = 0.2  # share of the limit within which an estimate does not tell
_SHOWN = 60
_FEWER = "give fewer pictures, or a shorter prompt or task"
_CUT = "shorten it, or let its words be cut: truncate=True (--truncate of mllm-embed)"
_FIELDS = ("text", "instruction")  # in the order in which they are cut


@dataclass(frozen=True)
class TokenLimit:
    """The longest input.

    Args:
        tokens: its tokens, those of the prompt and of pictures among them; None for any number.
        truncate: cut the words of a longer one, which is an error otherwise. What the prompt says behind them stays,
            and so do pictures.
    """

    tokens: int | None = None
    truncate: bool = False


def token_limit(config: Any, tokenizer: Any, max_tokens: int | None = None, truncate: bool = False) -> TokenLimit:
    """Return the limit of a model: `max_tokens`, or the positions that its config names, or else its tokenizer.

    Raises ConfigError for a `max_tokens` that is no number from 1 to these, and for a tokenizer that cannot truncate.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length
    own = positions if positions < _UNSET else None
    if max_tokens is not None and (type(max_tokens) is not int or not 1 <= max_tokens <= (own or max_tokens)):
        most = f"between 1 and {own:,}, the positions of this model" if own else "1 or more"
        raise ConfigError(f"max_tokens must be {most}, not {max_tokens!r}")
    if not isinstance(truncate, bool):
        raise ConfigError(f"truncate is True or False, not {truncate!r}")
    if truncate and not tokenizer.is_fast:
        raise ConfigError("truncate needs a tokenizer that tells where its tokens end, and this model's does not")
    return TokenLimit(max_tokens or own, truncate)


class Lengths:
    """The lengths of an `ItemProcessor`'s inputs, held to a limit."""

    def __init__(self, items: ItemProcessor, limit: TokenLimit, cure: str = ""):
        """Hold what `items` makes to `limit`; `cure` is what a message says to do about what is too long."""
        self._items, self.limit, self._cure = items, limit, cure

    def bounded(self, item: Item) -> Item:
        """Return an item; one whose words are too long by far, and may be cut, with a beginning that is still too long.

        Raises DataError where they may not.
        """
        if self.limit.tokens is None:
            return item
        for field in _fields(item):
            words = getattr(item, field)
            if len(words) > _PART * self.limit.tokens:
                cut: dict[str, Any] = {field: self._beginning(item, self._words(words), self.limit.tokens)}
                item = replace(item, **cut)
        return item

    def near(self, count: int) -> bool:
        """Whether so many tokens, some of them estimated, may be too many or just not."""
        limit = self.limit.tokens
        return limit is not None and abs(count - limit) <= max(_NEAR * limit, _SLACK)

    def fitted(self, item: Item, prompt: FilledPrompt, more: int = 0) -> tuple[Item, FilledPrompt]:
        """Return an item and its prompt, `more` tokens of pictures apart, as they are or cut to the limit.

        Raises DataError for one that is too long and may not be cut, or takes too much without its words.
        """
        limit, count = self.limit.tokens, len(prompt.tokens) + more
        if limit is None or count <= limit:
            return item, prompt
        if not self.limit.truncate or not _fields(item):
            raise self._too_long(item, f"{count:,}")
        cut = item
        for field in _fields(item):
            cut, prompt = self._cut(cut, field, limit - more)
            if len(prompt.tokens) + more <= limit:
                return cut, prompt
        raise self._too_long(item, f"{len(prompt.tokens) + more:,}")

    def check(self, items: Sequence[Item], mask: Tensor) -> None:
        """Raise DataError for the first item whose row of an attention mask [B, L] holds too many tokens."""
        if self.limit.tokens is None or mask.shape[1] <= self.limit.tokens:
            return
        for item, count in zip(items, mask.sum(1).tolist(), strict=True):
            if count > self.limit.tokens:
                raise self._too_long(item, f"{count:,}")

    def _words(self, words: str) -> str:
        """Return words as they stand in a prompt."""
        return words.strip() if self._items.prompts.strip else words

    def _beginning(self, item: Item, words: str, limit: int) -> str:
        """Return words, or a beginning of them that is over the limit by itself."""
        part, count = too_long(words, self._items.processor.tokenizer, limit)
        if count and not self.limit.truncate:
            raise self._too_long(item, f"at least {count:,}")
        return part

    def _cut(self, item: Item, field: str, room: int) -> tuple[Item, FilledPrompt]:
        """Return an item with as many of the tokens of a field's words as fit into `room` tokens, but one at least."""
        words = self._words(getattr(item, field))
        ends = self._items.words.ends(words)

        def shortened(count: int) -> tuple[Item, FilledPrompt]:
            shorter: dict[str, Any] = {field: words[: max(ends[count - 1], 1)]}
            cut = replace(item, **shorter)
            return cut, self._items.tokenise([self._items.render(cut)])[0]

        def fits(count: int) -> bool:
            return len(shortened(count)[1].tokens) <= room

        over = len(shortened(len(ends))[1].tokens) - room
        return shortened(_most(fits, len(ends) - over, len(ends)))

    def _too_long(self, item: Item, count: str) -> TooLongError:
        names = ", ".join(dict.fromkeys(map(name_of, item.images)))
        words = [repr(getattr(item, field)[:_SHOWN]) for field in _fields(item)]
        cure = self._cure or (_FEWER if self.limit.truncate or not words else _CUT)
        what = " with ".join(filter(None, [names, *words]))
        return TooLongError(f"{what} takes {count} tokens, over the limit of {self.limit.tokens:,}; {cure}")


def too_long(words: str, tokenizer: Any, limit: int) -> tuple[str, int]:
    """Return a beginning of words that is over a limit of tokens, and how many it takes; or all words, and 0.

    Not more of them is tokenised than it takes to tell, which leaves out what is over the limit by a few tokens. Raises
    DataError for words that are no Unicode.
    """
    size = _PART * limit
    while size < len(words):
        part = words[:size]
        check_unicode(part)
        count = len(tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"])
        # a tokenizer that makes one space of many could go on for ever without a token
        if count > limit + _SLACK or size > limit * max(map(len, tokenizer.get_vocab())):
            return part, max(count, 1)
        size *= 2
    return words, 0


def _fields(item: Item) -> list[str]:
    """Return the fields of an item that hold words."""
    return [field for field in _FIELDS if getattr(item, field, None) is not None]


def _most(fits: Callable[[int], bool], guess: int, most: int) -> int:
    """Return the largest number from 1 to `most` - 1 that fits, or 1; `guess` is tried first."""
    if 1 <= guess < most and fits(guess) and not fits(guess + 1):
        return guess
    return max(1, bisect_left(range(1, most), True, key=lambda count: not fits(count)))
