"""Prompt sets: what a model is asked about a picture, a text, or both. They are saved with the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .errors import ConfigError

INSTRUCTION, TEXT = "{instruction}", "{text}"


@dataclass(frozen=True)
class PromptSet:
    """One prompt a role. The picture always comes before the words, so that all asked of one picture share a prefix.

    `composed` holds `{instruction}` and `text` holds `{text}`, where the user's words go, once. Raises ConfigError
    when one of them is missing.
    """

    name: str
    image: str
    composed: str
    text: str

    def __post_init__(self) -> None:
        for role, mark in (("composed", INSTRUCTION), ("text", TEXT)):
            if getattr(self, role).count(mark) != 1:
                raise ConfigError(f"prompt set '{self.name}': the {role} prompt must hold {mark} once")

    def template(self, role: str) -> str:
        return getattr(self, role)

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PromptSet:
        return cls(**values)


# The prompts of InstructCIR's released code (github.com/zhwl2117/InstructCIR, generate_test_submission.py), which are
# E5-V's (arXiv 2407.12580). The released code spells "desribe"; models trained with it want that spelling.
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


def render(processor: Any, prompts: PromptSet, role: str) -> str:
    """The full model input of a role as text, with the mark where the user's words go, and the picture's placeholder.

    Uses the processor's chat template when it has one, generation prompt included; otherwise the image token, a line
    break, and the prompt.
    """
    words = prompts.template(role)
    if getattr(processor, "chat_template", None):
        content: list[dict[str, str]] = [] if role == "text" else [{"type": "image"}]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": words}]}]
        return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return words if role == "text" else f"{processor.image_token}\n{words}"
