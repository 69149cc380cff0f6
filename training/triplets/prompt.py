"""The prompt that a language model gets: a text with marks that are filled for each caption."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mllm_embed.errors import ConfigError, reason
from mllm_embed.files import read_text

DEFAULT = Path(__file__).with_name("prompt.txt")
PROMPT_MARKS = ("caption", "count", "kinds")
KEYS = ("instruction", "modified_caption")
CHANGE_KINDS = {
    "add": "something or somebody comes in",
    "remove": "something or somebody is gone",
    "replace": "one thing, animal or person gives way to another",
    "colour": "the colour of something",
    "attribute": "material, size, age, pattern, clothing or condition of something",
    "count": "how many there are of something",
    "action": "what somebody or something does",
    "position": "where something stands in the picture, or what it stands next to",
    "scene": "the place or the background",
    "conditions": "weather, season, time of day or light",
    "viewpoint": "from how far, from what side or in what style it is shown",
}
_MARK = re.compile(r"\{([A-Za-z_]+)\}")


@dataclass(frozen=True)
class Prompt:
    """A text with the mark {caption}, and {count} and {kinds} where it wants them."""

    text: str
    count: int

    @classmethod
    def load(cls, path: Path | None, count: int) -> Prompt:
        """Return the prompt of a file, by default of the one that ships with the library, asking for `count` changes.

        Raises ConfigError for a file that cannot be read, lacks {caption} or the keys of the answer, or holds a mark
        that does not exist.
        """
        return cls(read_prompt(path or DEFAULT, PROMPT_MARKS, ("caption",), KEYS), count)

    def fill(self, caption: str) -> str:
        """Return the prompt for one caption."""
        return filled(self.text, {"caption": caption, "count": str(self.count), "kinds": kinds_for(caption)})


def read_prompt(path: Path, marks: Sequence[str], needed: Sequence[str], keys: Sequence[str]) -> str:
    """Return the text of a prompt's file.

    Args:
        path: the file.
        marks: what it may leave to be filled in, each as {mark}.
        needed: those that it must.
        keys: what it must ask for: those of the JSON that answers it.

    Raises ConfigError for a file that cannot be read, lacks a mark or a key, or holds a mark that does not exist.
    """
    text = _read(path)
    _check_marks(path, text, marks, needed)
    for key in keys:
        if key not in text:
            raise ConfigError(f'{path} does not ask for "{key}", which the answer must name: JSON with {tuple(keys)}')
    return text


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return a prompt's text with its marks filled in one pass, since what is filled in may hold one."""
    return _MARK.sub(lambda mark: values[mark[1]], text)


def kinds_for(subject: str) -> str:
    """Return the kinds of change with what they are, a line each, in an order that the subject decides.

    Asked for the first that suit, a model gives all of them about as often, and not always its favourites.
    """
    order = sorted(CHANGE_KINDS, key=lambda kind: hashlib.sha256(f"{kind} {subject}".encode()).digest())
    return "\n".join(f"- {kind}: {CHANGE_KINDS[kind]}" for kind in order)


def _read(path: Path) -> str:
    try:
        return read_text(path, "utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"--prompt {path} cannot be read: {reason(error)}") from error


def _check_marks(path: Path, text: str, known_marks: Sequence[str], needed: Sequence[str]) -> None:
    marks = set(_MARK.findall(text))
    for mark in needed:
        if mark not in marks:
            raise ConfigError(f"{path} has no {{{mark}}}: write that mark where the {_words(mark)} shall stand")
    for unknown in sorted(marks - set(known_marks)):
        known = ", ".join(f"{{{mark}}}" for mark in known_marks)
        raise ConfigError(f"{path} holds the mark {{{unknown}}}, which is unknown; known are {known}")


def _words(mark: str) -> str:
    return mark.replace("_", " ")
