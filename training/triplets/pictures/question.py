"""What a model is asked about a pair of pictures: the words of prompt files, filled in for each pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mllm_embed.errors import ConfigError

from ..prompt import filled, kinds_for, read_prompt

KEYS = ("instruction",)
DESCRIBE = Path(__file__).with_name("describe.txt")


@dataclass(frozen=True)
class Form:
    """What an instruction is written from.

    Args:
        file: the prompt that ships with the library.
        marks: what a prompt may leave to be filled in.
        needed: those that it must.
        sees: whether the pictures are sent with it.
    """

    file: Path
    marks: tuple[str, ...]
    needed: tuple[str, ...]
    sees: bool


FORMS = {
    "pictures": Form(Path(__file__).with_name("from_pictures.txt"), ("count", "kinds"), (), True),
    "captions": Form(
        Path(__file__).with_name("from_captions.txt"),
        ("reference_caption", "target_caption", "count", "kinds"),
        ("reference_caption", "target_caption"),
        False,
    ),
}


@dataclass(frozen=True)
class PairPrompt:
    """A prompt for pairs: its form, by a name of `FORMS`, its text, and how many instructions it asks for."""

    written_from: str
    text: str
    count: int

    @classmethod
    def load(cls, written_from: str, count: int, path: Path | None = None) -> PairPrompt:
        """Return the prompt of a file, by default of the library's own. Raises ConfigError as `prompt.read_prompt`."""
        form = FORMS[written_from]
        return cls(written_from, read_prompt(path or form.file, form.marks, form.needed, KEYS), count)

    @property
    def form(self) -> Form:
        """What it is written from."""
        return FORMS[self.written_from]

    def fill(self, pair: Sequence[str], captions: Sequence[str | None] = (None, None)) -> str:
        """Return the prompt for the pair of these ids, which have these captions."""
        values = {
            "reference_caption": captions[0] or "",
            "target_caption": captions[1] or "",
            "count": str(self.count),
            "kinds": kinds_for(" ".join(pair)),
        }
        return filled(self.text, values)


def describing(words: int) -> str:
    """Return the prompt that asks for a caption of about so many words. Raises ConfigError for none at all."""
    if words < 1:
        raise ConfigError(f"--describe takes how many words a caption has, from 1, not {words}")
    return filled(read_prompt(DESCRIBE, ("words",), ("words",), ()), {"words": str(words)})
