"""Words stay words: what a user, a caption or a data file says becomes no token by which a template marks a turn, an
end or a picture.

Words that spell no such mark are left as they are, for the model's own tokenizer. In others a character that no text
has need of is put between the letters of a mark, and a copy of the tokenizer drops it again: after it has looked for
marks, so that it finds the template's and not the user's. Both read the tokens of the same characters. (transformers'
own `sanitize_control_tokens` reads a mark apart from what stands around it, which gives others.)
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any

from ..errors import DataError
from ..text import half_character, printable

# Unicode keeps these for use inside of programs: the first makes a pair with one of the others, or one from _OWN on
_ESCAPE, _NOTHING, _ITSELF, _OWN = "\ufdd0", "\ufdd1", "\ufdd2", 0xFDD3
_BREAK = _ESCAPE + _NOTHING
_BRACKETS = {"<": ">", "[": "]", "{": "}"}
_SPACE = "\u2581"  # how SentencePiece writes one
_UNICODE_FORMS = {"NFC", "NFD", "NFKC", "NFKD"}  # normalisers that leave ASCII as it is
_SHOWN = 60


class Words:
    """A tokenizer's way to read the words of users."""

    def __init__(self, tokenizer: Any, marks: Iterable[str] = ()):
        """Take the marks of a tokenizer: its special tokens, added ones in brackets, and `marks`.

        Other tokens that were added to it are words, or white space, and are read as before.
        """
        self.tokenizer = tokenizer
        self.marks = frozenset((*_marks(tokenizer), *marks))
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._normalizer = self._backend.normalizer if self._backend else None
        forms = (form for mark in self.marks for form in (mark, mark.replace(_SPACE, " "), self._normalised(mark)))
        self._spelt = tuple({form for form in forms if form})
        self._longest = max(map(len, self._spelt), default=0)
        firsts = "".join(sorted({mark[0] for mark in self._spelt} | {_ESCAPE}))
        self._first = re.compile(f"[{re.escape(firsts)}]")
        self._begins = lru_cache(self._ends_within_a_mark)  # a template is asked about for all the words in it
        single = sorted(mark for mark in self.marks if len(mark) == 1)
        self._pairs = {_ESCAPE: _ESCAPE + _ITSELF}
        self._pairs |= {mark: _ESCAPE + chr(_OWN + number) for number, mark in enumerate(single)}

    def written(self, words: str, before: str = "") -> str:
        """Return words as they are to stand in a prompt behind the text `before`; as given, where they spell no mark.

        Raises DataError for words that are no Unicode, and for a mark that this tokenizer cannot but read as one.
        """
        check_unicode(words)
        if not (self._spells(words) or self._spells(self._normalised(words)) or self._begins(before[-self._longest :])):
            return words
        written = _BREAK + self._first.sub(lambda found: self._apart(words, found.start()), words) + _BREAK
        if self._copy is None or not self._ids.isdisjoint(self._copy(written, add_special_tokens=False)["input_ids"]):
            raise DataError(
                f"the words {words[:_SHOWN]!r} spell a token of the model's own, and its tokenizer cannot read that as "
                "words; take it out"
            )
        return written

    def ends(self, words: str) -> list[int]:
        """Return where in words each of their tokens ends, in characters. The tokenizer must be one of `tokenizers`."""
        written = self.written(words)
        tokens = self.tokenizer_for([written])(written, add_special_tokens=False, return_offsets_mapping=True)
        told = _told(written)
        return [told[end] for _, end in tokens["offset_mapping"]]

    def tokenizer_for(self, texts: Sequence[str]) -> Any:
        """Return what reads prompts: the model's own tokenizer, or its copy where words were written otherwise."""
        return self._copy if any(_ESCAPE in text for text in texts) else self.tokenizer

    def _spells(self, words: str) -> bool:
        """Whether words hold a mark, end with the beginning of one, or hold the escape."""
        return any(self._is_mark(words, found.start()) for found in self._first.finditer(words))

    def _is_mark(self, words: str, start: int) -> bool:
        if words[start] == _ESCAPE or words.startswith(self._spelt, start):
            return True
        return start + self._longest > len(words) and any(mark.startswith(words[start:]) for mark in self._spelt)

    def _ends_within_a_mark(self, before: str) -> bool:
        """Whether a text ends in the middle of a mark, so that words could go on with it."""
        ends = [before[-length:] for length in range(1, min(self._longest, len(before) + 1))]
        return any(mark != end and mark.startswith(end) for end in ends for mark in self._spelt)

    def _apart(self, words: str, start: int) -> str:
        """Return the character of words at `start` with a break behind it, where a mark stands there."""
        if not self._is_mark(words, start):
            return words[start]
        return self._pairs.get(words[start], words[start] + _BREAK)

    def _normalised(self, words: str) -> str:
        """Return words as the tokenizer's model gets them, with plain spaces; nothing where they stay as they are."""
        if self._normalizer is None or (words.isascii() and type(self._normalizer).__name__ in _UNICODE_FORMS):
            return ""
        return self._normalizer.normalize_str(words).replace(_SPACE, " ").strip()

    @cached_property
    def _ids(self) -> frozenset[int]:
        """The numbers of the marks, but for the one that stands for what is in no vocabulary."""
        ids = self.tokenizer.convert_tokens_to_ids(sorted(self.marks))
        return frozenset(ids) - {self.tokenizer.unk_token_id, None}

    @cached_property
    def _copy(self) -> Any:
        """The tokenizer that reads words which were written otherwise; None for one that cannot be copied so."""
        from tokenizers import Tokenizer

        if self._backend is None:
            return None
        tokenizer = copy.copy(self.tokenizer)
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(self._without_marks(json.loads(self._backend.to_str()))))
        probes = [f"{mark}a {mark} b" for mark in sorted(self.marks)]
        own, other = (reads(probes, add_special_tokens=False)["input_ids"] for reads in (self.tokenizer, tokenizer))
        return tokenizer if own == other else None

    def _without_marks(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return a tokenizer's JSON such that marks are looked for in a text as it is given, and only there."""
        for token in values["added_tokens"]:
            token["normalized"] = token["normalized"] and token["content"] not in self.marks
        pairs = [(_BREAK, ""), *((pair, mark) for mark, pair in reversed(self._pairs.items()))]
        drops = [{"type": "Replace", "pattern": {"String": pair}, "content": mark} for pair, mark in pairs]
        own = [values["normalizer"]] if values["normalizer"] else []
        values["normalizer"] = {"type": "Sequence", "normalizers": [*drops, *own]}
        model = values["model"]
        if "merges" in model:
            # a vocabulary may spell a mark out of its letters
            pieces = (merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"])
            model["merges"] = [piece for piece in pieces if "".join(piece) not in self.marks]
        return values


def _marks(tokenizer: Any) -> list[str]:
    """Return the tokens of a tokenizer that stand for something other than their letters."""
    added = {str(token): token.special for token in tokenizer.added_tokens_decoder.values()}
    added |= dict.fromkeys(map(str, tokenizer.all_special_tokens), True)
    return [token for token, special in added.items() if token and (special or _in_brackets(token))]


def _in_brackets(token: str) -> bool:
    return len(token) > 2 and _BRACKETS.get(token[0]) == token[-1]


def _told(written: str) -> list[int]:
    """Return how many of the characters that were given each beginning of written words stands for."""
    told, count, opened = [0], 0, False
    for character in written:
        count += character != (_NOTHING if opened else _ESCAPE)
        opened = not opened and character == _ESCAPE
        told.append(count)
    return told


def check_unicode(words: str) -> None:
    """Raise DataError for words with half a character, a lone surrogate, in them."""
    if half_character(words):
        raise DataError(
            f"the words '{printable(words[:_SHOWN])}' hold half a character (a lone surrogate), which is no Unicode; "
            "write them in UTF-8"
        )


def placeholders_of(processor: Any) -> list[str]:
    """Return the tokens that stand for a picture or a video in a prompt of a Hugging Face processor."""
    named = (getattr(processor, name, None) for name in ("image_token", "video_token"))
    tokens = {*named, *processor.tokenizer.convert_ids_to_tokens(processor.image_token_ids)}
    return sorted(token for token in tokens if token)
