"""The task instructions that MMEB's texts begin with, in front of the words of each row.

A row of A-OKVQA says "Represent the given image with the following question: Where does this man eat pizza?".
The words are those that public code quotes: lists of what to take off the `qry` and `pos_text` of each set, and for 14
of the 20 training sets a printed copy of their first rows. The data set itself was not opened. These are of its split
`original`; `diverse_instruction` words each task in several ways, of which we know no list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mllm_embed.errors import DataError, reason

# what a query begins with: by MMEB's four kinds of tasks
_CLASSIFICATION = (
    "Represent the given image for classification",
    "Represent the given news image with the following caption for domain classification:",
    "Represent the given image for binary classification to determine whether it constitutes hateful speech or not",
    "Identify the object shown in the image",
    "Identify the scene shown in the image",
    "Identify the country depicted in the image",
)
_QUESTIONS = ("Represent the given image with the following question:",)
_RETRIEVAL = (
    "Represent the given dialogue about an image, which is used for image retrieval:",
    "Retrieve an image of this news caption.",
    "Find a caption for the news in the given photo.",
    "Find me an everyday image that matches the given caption:",
    "Find an image caption describing the given everyday image.",
    "Find a day-to-day image that looks similar to the provided image.",
    "Find a Wikipedia image that answers this question:",
    "Find the document image that can answer the given query:",
    "Find a news image that matches the provided caption:",
    "Retrieve a Wikipedia image-description pair that provides evidence for the question of this image:",
)
_GROUNDING = (
    "Select the portion of the image that isolates the object labeled as",
    "Crop the image to to isolate the object labeled as",  # so in MMEB
    "Select the portion of the image that follows the language expressions.",
    "Select the portion of the image that follows the language expressions:",
    "Select the portion of the image that answers the question",
)
CHANGES = (
    "Given an image, find a similar everyday image with the described changes:",  # CIRR
    "Find an image to match the fashion image and style note:",  # FashionIQ
)
"""Those that ask for a change of the picture, as the prompt of a picture with an instruction does by itself."""
QUERIES = (*_CLASSIFICATION, *_QUESTIONS, *_RETRIEVAL, *_GROUNDING, *CHANGES)
PICTURE = ("Represent the given image.", "Represent the given image")
"""What is said of a picture that is found: what the prompt of pictures asks by itself."""
TARGETS = (
    "Represent the given Wikipedia image with related text information:",
    "Represent the given image with related text information:",
    "Represent the given cropped image of the object",
    *_GROUNDING,
    *PICTURE,
)


class Split(NamedTuple):
    """A text in two: the instruction that it begins with, None where it is none that is known, and the rest."""

    task: str | None
    words: str | None


class Instructions:
    """What texts may begin with, the longest first.

    Args:
        known: instructions.
    """

    def __init__(self, known: Sequence[str]):
        texts = {text.strip() for text in known}
        either = "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))
        # behind it comes white space, or nothing: "the given image" is not the beginning of "the given images"
        self._pattern = re.compile(rf"\s*({either})(?:\s+(.*\S))?\s*", re.DOTALL)

    def split(self, text: Any) -> Split:
        """Return a text in two. What is no text has no instruction."""
        found = self._pattern.fullmatch(text) if isinstance(text, str) else None
        return Split(found[1], found[2]) if found else Split(None, text)


def read_lines(path: Path) -> list[str]:
    """Return the instructions in a text file, one a line. Raise DataError for one that cannot be read or holds none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"tasks: {path} cannot be read ({reason(error)}); give a text file, a line each") from error
    if not any(lines):
        raise DataError(f"tasks: {path} holds no instruction; write one a line")
    return [line for line in lines if line]
