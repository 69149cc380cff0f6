"""A language model's answers: changes found in its text, and judged. The rules on wording know English alone.

    {"instruction": "...", "modified_caption": "...", "kind": "colour"}

is the object that `prompt.txt` asks for, any number of them in one answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from mllm_embed.text import half_character

from .prompt import CHANGE_KINDS, KEYS

REASONS = {
    "refused": "the endpoint refused this caption",
    "cut_off": "the answer was cut before its first change: allow longer ones",
    "no_json": "the answer holds no JSON with the two keys",
    "incomplete": "instruction or modified_caption is missing, empty or no text",
    "placeholder": "a placeholder stands where words should be",
    "length": "too short or too long for an instruction, or for a caption like the first",
    "unchanged": "the caption is the one it came from",
    "leaked": "the instruction holds a caption",
    "not_a_caption": "the caption tells of the change, or that it is about a picture",
    "repeated": "the same instruction for the same caption, or a picture's caption again",
    "surplus": "more changes than asked for",
}
LONGEST_INSTRUCTION = 250  # characters; the relative captions of CIRR and FashionIQ are a sentence or two
LEAK = 20  # characters: "make it a red dress" may name a short target whole
BRACKETS = re.compile(r"<[^<>]{1,60}>|\[[^\[\]]{1,60}\]|\{[^{}]{1,60}\}|\.\.\.|…")
STAND_INS = {*KEYS, "modified caption", "caption", "string", "text", "none", "null", "n a", "todo", "example"}
# A target that gives itself away differs from the source caption, its hard negative, by manner and not by content.
_MANNER = re.compile(
    r"\b(?:(?:image|picture|photo|photograph|caption|scene) (?:now |that )?"
    r"(?:shows?|showing|depicts?|depicting|features?|featuring|describes?|describing)"
    r"|(?:modified|edited|updated|altered|original) (?:version|image|picture|photo|photograph|caption|scene)"
    r"|instead|no longer|has been (?:added|removed|replaced|changed)|have been (?:added|removed|replaced|changed)"
    r"|(?:is|are) now)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Change:
    """An instruction, the caption after it, and its kind where the model named one that exists."""

    instruction: str
    caption: str
    kind: str | None = None


def parse(answer: str, keys: Collection[str] = KEYS) -> list[dict[str, Any]]:
    """Return the JSON objects in an answer that have one of the keys, in order.

    Fences, words around the JSON, thoughts before it, lists, objects around lists, a trailing comma and an end that
    was cut off are all borne; of a list that was cut off, the whole objects are taken.
    """
    text = re.sub(r",(\s*[}\]])", r"\1", answer.rpartition("</think>")[2])
    decode = json.JSONDecoder(strict=False).raw_decode
    found: list[dict[str, Any]] = []
    at = 0
    while (start := text.find("{", at)) >= 0:
        try:
            value, at = decode(text, start)
        except (ValueError, RecursionError):
            at = start + 1
        else:
            found += _objects(value, keys)
    return found


def _objects(value: Any, keys: Collection[str]) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and any(key in value for key in keys):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _objects(part, keys)


def judge(value: dict[str, Any], source: str) -> Change | str:
    """Return the change that an object of the answer to the caption `source` describes, or the reason why it is none.

    Reasons are the keys of `REASONS`.
    """
    instruction, caption = (words_of(value.get(key)) for key in KEYS)
    if instruction is None or caption is None:
        return "incomplete"
    for reason, wrong in _checks(instruction, caption, source):
        if wrong:
            return reason
    return Change(instruction, caption, change_kind(value.get("kind")))


def words_of(value: Any) -> str | None:
    """Return a text with single spaces, None for one without words and for what is no text."""
    if not isinstance(value, str) or not plain(value) or half_character(value):
        return None
    return " ".join(value.split())


def change_kind(value: Any) -> str | None:
    """Return the kind of change that a model names; None for one that is not of `CHANGE_KINDS`."""
    kind = value.strip().lower() if isinstance(value, str) else None
    return kind if kind in CHANGE_KINDS else None


def _checks(instruction: str, caption: str, source: str) -> Iterator[tuple[str, bool]]:
    """Yield each reason to drop a change, and whether it holds."""
    new, asked, old = plain(caption), plain(instruction), plain(source)
    yield "placeholder", any(mark not in source for text in (instruction, caption) for mark in BRACKETS.findall(text))
    yield "placeholder", new in STAND_INS or asked in STAND_INS
    yield "length", not 2 <= len(instruction) <= LONGEST_INSTRUCTION
    # a caption of a few words for a long one has lost what was to be kept
    yield "length", not len(source) / 4 <= len(caption) <= 2 * len(source) + 100
    yield "unchanged", new == old
    yield "leaked", asked in (new, old)
    yield "leaked", any(len(text) > LEAK and f" {text} " in f" {asked} " for text in (new, old))
    yield "not_a_caption", bool(_MANNER.search(caption)) and not _MANNER.search(source)


def plain(text: str) -> str:
    """Return the words alone, in lower case, with single spaces: what two texts are compared by."""
    return " ".join(re.findall(r"\w+", text.lower()))
