"""What a language model answered: found in its text, and judged. The rules on wording know English alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mllm_embed.data.json_rows import half_character

from .prompt import KEYS, KINDS

REASONS = {
    "refused": "the endpoint refused this caption",
    "cut_off": "the answer was cut at --max-tokens before its first change",
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
_LEAK = 20  # characters: "make it a red dress" may name a short target whole
_BRACKETS = re.compile(r"<[^<>]{1,60}>|\[[^\[\]]{1,60}\]|\{[^{}]{1,60}\}|\.\.\.|…")
_STAND_INS = {*KEYS, "modified caption", "caption", "string", "text", "none", "null", "n a", "todo", "example"}
# A target that gives itself away is told from the source caption, its hard negative, by manner and not by content.
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


def parse(answer: str) -> list[dict[str, Any]]:
    """The JSON objects in an answer that have one of the two keys, in order.

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
            found += _objects(value)
    return found


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and any(key in value for key in KEYS):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _objects(part)


def judge(value: dict[str, Any], source: str) -> Change | str:
    """The change that an object of the answer to the caption `source` describes, or the reason why it is none."""
    texts = [value.get(key) for key in KEYS]
    if not all(isinstance(text, str) and plain(text) and not half_character(text) for text in texts):
        return "incomplete"
    instruction, caption = (" ".join(str(text).split()) for text in texts)
    for complaint, wrong in _checks(instruction, caption, source):
        if wrong:
            return complaint
    kind = value.get("kind")
    return Change(instruction, caption, kind.strip().lower() if _known(kind) else None)


def _checks(instruction: str, caption: str, source: str) -> Iterator[tuple[str, bool]]:
    words, said, old = plain(caption), plain(instruction), plain(source)
    yield "placeholder", any(mark not in source for text in (instruction, caption) for mark in _BRACKETS.findall(text))
    yield "placeholder", words in _STAND_INS or said in _STAND_INS
    yield "length", not 2 <= len(instruction) <= LONGEST_INSTRUCTION
    # a caption of a few words for a long one has lost what was to be kept
    yield "length", not len(source) / 4 <= len(caption) <= 2 * len(source) + 100
    yield "unchanged", words == old
    yield "leaked", said in (words, old)
    yield "leaked", any(len(text) > _LEAK and f" {text} " in f" {said} " for text in (words, old))
    yield "not_a_caption", bool(_MANNER.search(caption)) and not _MANNER.search(source)


def _known(kind: Any) -> bool:
    return isinstance(kind, str) and kind.strip().lower() in KINDS


def plain(text: str) -> str:
    """The words alone, in lower case, with single spaces: what two texts are compared by."""
    return " ".join(re.findall(r"\w+", text.lower()))
