"""A model's answers about pairs of pictures: instructions found in them, and judged. The rules know English alone.

    [{"instruction": "...", "kind": "colour"}]    or    {"same": true}

is what the prompts of `question` ask for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..answers import BRACKETS, LEAK, LONGEST_INSTRUCTION, REASONS, STAND_INS, Change, change_kind, plain, words_of
from ..answers import parse as parse_objects

SAME = "same"
KEYS = ("instruction", SAME)
JUDGED = {
    "refused": "the endpoint refused this pair, or a picture of it cannot be read",
    "cut_off": "the answer was cut at --answer-tokens before its first instruction",
    "no_json": "the answer holds no JSON with an instruction",
    "incomplete": "the instruction is missing, empty or no text",
    "placeholder": REASONS["placeholder"],
    "length": "too short or too long for an instruction",
    "same": "the model sees no difference between the pictures",
    "leaked": REASONS["leaked"],
    "pictures": "the instruction speaks of a second picture, which nobody who searches has seen",
    "description": "it describes the target alone, and asks for no change",
    "repeated": "the same instruction for the same reference and another target, or for the same pair again",
    "surplus": "more instructions than asked for",
    "no_caption": "one of the pictures has no caption",
}
LONGEST_CAPTION = 500  # characters
_OTHER_PICTURE = re.compile(
    r"\b(?:first|second|1st|2nd|other|target|reference|source|both|latter|former)\s+(?:of the )?"
    r"(?:image|picture|photo|photograph|caption)s?\b"
    r"|\b(?:image|picture|photo|caption)\s*#?\s*[12]\b",
    re.IGNORECASE,
)
_LETTERED = re.compile(r"\b(?:[Ii]mage|[Pp]icture|[Pp]hoto|[Cc]aption) [AB]\b")
_DESCRIBES = re.compile(
    r"(?:an?|the|some|two|three|four|five|several|many)\b|there (?:is|are)\b|(?:image|picture|photo)s? of\b",
    re.IGNORECASE,
)
# A word by which a phrase says that something differs from, or stays as in, the picture that one has.
_CHANGES = re.compile(
    r"\b(?:make|made|change\w*|add(?:ed|s|ing)?|remove\w*|replac\w*|turn\w*|instead|rather|more|less|fewer|another|other"
    r"|different|same|similar|but|now|longer|without|not|no|it|its|this|that|these|they|them|one|ones|into|only|also"
    r"|bigger|smaller|larger|shorter|darker|lighter|brighter|closer|nearer|farther|further|older|younger|taller|wider"
    r"|higher|lower|warmer|colder|should|must|needs?|want|let)\b",
    re.IGNORECASE,
)
_REFUSES = re.compile(r"\b(?:I'?m sorry|I cannot|I can'?t|as an AI|unable to)\b", re.IGNORECASE)


def parse(answer: str) -> list[dict[str, Any]]:
    """Return the JSON objects in an answer that have an instruction or say that the pictures are the same."""
    return parse_objects(answer, KEYS)


def judge(value: dict[str, Any], captions: Sequence[str | None]) -> Change | str:
    """Return the instruction of an object, or the reason why it is none, a key of `JUDGED`.

    Args:
        value: the object.
        captions: of both pictures, where there are any; a `Change` holds the target's.
    """
    if value.get(SAME) is True:
        return "same"
    instruction = words_of(value.get("instruction"))
    if instruction is None:
        return "incomplete"
    for reason, wrong in _checks(instruction, [caption for caption in captions if caption]):
        if wrong:
            return reason
    return Change(instruction, captions[1] or "", change_kind(value.get("kind")))


def judge_caption(answer: str) -> str | None:
    """Return a caption that a model wrote; None for an answer that is none."""
    text = words_of(answer.rpartition("</think>")[2].strip().strip("\"'`").strip())
    if text is None or len(text) > LONGEST_CAPTION or _REFUSES.search(text):
        return None
    return text


def _checks(instruction: str, captions: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield each reason to drop an instruction, and whether it holds."""
    asked, texts = plain(instruction), [plain(caption) for caption in captions]
    yield "placeholder", any(mark not in " ".join(captions) for mark in BRACKETS.findall(instruction))
    yield "placeholder", asked in STAND_INS
    yield "length", not 2 <= len(instruction) <= LONGEST_INSTRUCTION
    yield "leaked", asked in texts
    yield "leaked", any(len(text) > LEAK and f" {text} " in f" {asked} " for text in texts)
    yield "pictures", bool(_OTHER_PICTURE.search(instruction) or _LETTERED.search(instruction))
    yield "description", bool(_DESCRIBES.match(instruction)) and not _CHANGES.search(instruction)
