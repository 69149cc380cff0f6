"""Prompt sets: what a model is asked about a picture, a text, or both. They are saved with the model.

`render` writes a role's prompt as the model's chat template wants it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ConfigError, ModelError
from ..types import Role
from .chat_template import render_chat, template_of

INSTRUCTION, TEXT = "{instruction}", "{text}"
# where the user's words go; the prompt of pictures alone has no such place
MARKS: dict[Role, tuple[str, ...]] = {
    "image": (),
    "composed": (INSTRUCTION,),
    "text": (TEXT,),
    "captioned": (TEXT,),
    "composed_text": (TEXT, INSTRUCTION),
}


@dataclass(frozen=True)
class PromptSet:
    """One prompt a role. Pictures always come before the words, so that all asked of one picture share a prefix.

    Args:
        image: pictures alone.
        composed: pictures and what to change in them; holds `{instruction}` once.
        text: words alone; holds `{text}` once.
        captioned: pictures with the text that belongs to them, on the gallery's side; holds `{text}` once.
        composed_text: a text in the place of a picture and what to change in it; holds both marks once.

    Raises ConfigError for a mark that is missing or occurs twice.
    """

    name: str
    image: str
    composed: str
    text: str
    captioned: str = "{text}\nSummary above image and sentence in one word:"
    composed_text: str = '{text}\nModify above sentence with "{instruction}", describe modified sentence in one word:'

    def __post_init__(self) -> None:
        for role, marks in MARKS.items():
            for mark in marks:
                if getattr(self, role).count(mark) != 1:
                    raise ConfigError(f"prompt set '{self.name}': the {role} prompt must hold {mark} once")

    def template(self, role: Role) -> str:
        """Return a role's prompt, with the marks where the user's words go."""
        return getattr(self, role)

    def to_dict(self) -> dict[str, str]:
        """Return the name and the prompts as plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PromptSet:
        """Return the set of what `to_dict` returned. Raises TypeError for keys that no prompt set has."""
        return cls(**values)


# The prompts of InstructCIR's released code (github.com/zhwl2117/InstructCIR, generate_test_submission.py), which are
# E5-V's (arXiv 2407.12580); the two roles with defaults are not in it, and are worded after them. The released code
# spells "desribe"; models trained with it want that spelling.
PROMPT_SETS = {
    prompts.name: prompts
    for prompts in (
        PromptSet(
            name="instructcir",
            image="Describe this image in one word:",
            composed='Modify this image with "{instruction}", describe modified image in one word:',
            text="{text}\nSummary above sentence in one word:",
        ),
        PromptSet(
            name="instructcir-legacy",
            image=" Describe this image in one word:",
            composed='Modify this image with "{instruction}", desribe modified image in one word:',
            text="{text}\nSummary above sentence in one word:",
        ),
    )
}


def render(processor: Any, prompts: PromptSet, role: Role, images: int = 1) -> str:
    """Return a role's full model input as text, with the marks where the user's words go and a placeholder a picture.

    Uses the processor's chat template when it has one, generation prompt included; otherwise the image tokens, a line
    break, and the prompt. Raises ModelError for a template that fails, or does not put the words into its text and a
    placeholder for each picture.
    """
    prompt = prompts.template(role)
    text = chat(processor, prompt, images)
    lost = next((mark for mark in MARKS[role] if text.count(mark) != 1), None)
    if lost:  # all words would have one vector
        raise ModelError(f"the chat template leaves out, or repeats, the {lost} of a prompt; mend it: {text[:80]!r}")
    if images and text == chat(processor, prompt, images - 1):  # by what a family calls a placeholder, this is not seen
        raise ModelError(f"the chat template has no place for picture {images}; mend it: {text[:80]!r}")
    return text


def chat(processor: Any, words: str, images: int = 0) -> str:
    """Return a user's turn of words and so many pictures, as the processor's chat template puts it to the model."""
    if template_of(processor):
        content: list[dict[str, str]] = [{"type": "image"}] * images
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": words}]}]
        return render_chat(processor, messages, add_generation_prompt=True)
    return f"{processor.image_token * images}\n{words}" if images else words
